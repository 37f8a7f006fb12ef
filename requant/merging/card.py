"""The model card of a merge: README.md with the recipe, the models and what tells them from others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from requant.cards import EXPLAINED, block, file_told, files_table, front_matter, plain, weight_files
from requant.ir import Json, Typed
from requant.merging.model import Model
from requant.merging.recipe import Recipe
from requant.sources import Memory, Source


def inputs_of(models: Sequence[Model]) -> list[Json]:
    """The models and the fingerprints of their files; an SHA-256 by which the Hub's cache calls a file is told."""
    found: list[Json] = []
    for model in models:
        tensors = (leaf for node in model.tensors.values() for leaf in node.leaves())
        files: list[Json] = [file_told(path) for path in weight_files(tensors)]
        found.append({"model": str(model.reference), "files": files})
    return found


def card(recipe: Recipe, models: Sequence[Model], inputs: Sequence[Json], name: str, seed: int) -> Source:
    """README.md."""
    names = [model.reference.model for model in models]
    hub = [text for text in names if text.count("/") == 1 and not text.startswith((".", "/", "~"))]
    front: dict[str, object] = {"base_model": hub} if hub else {}
    front |= {"tags": ["merge", "requant"], "library_name": "transformers"}
    method = recipe.method
    title = f"[{method.title}]({method.paper})" if method.paper else method.title
    base = f", with {plain(str(recipe.base))} as the base" if recipe.base else ""
    lines = [f"# {plain(name)}", "", f"Merged with requant by the method {title}{base}; seed {seed}.", "", "## Models"]
    for entry in inputs:
        assert isinstance(entry, dict)
        files = entry["files"]
        assert isinstance(files, list)
        told = files_table([file for file in files if isinstance(file, dict)])
        lines += ["", f"### {plain(str(entry['model']))}", "", *told]
    lines += ["", EXPLAINED, "", "## Recipe", "", *block(recipe.text, "yaml"), ""]
    return Memory((front_matter(front) + "\n".join(lines)).encode("utf-8", "surrogateescape"))


def key_values(recipe: Recipe, inputs: Sequence[Json], seed: int) -> tuple[tuple[str, Typed], ...]:
    """The same in a GGUF's metadata."""
    found: Mapping[str, Typed] = {
        "requant.merge.recipe": Typed("str", recipe.text),
        "requant.merge.inputs": Typed("str", json.dumps(inputs)),
        "requant.merge.seed": Typed("u64", seed),
    }
    return tuple(found.items())
