"""The model card of a merge: README.md with the recipe, the models and what tells them from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from requant.ir import Json, Typed
from requant.merging.model import Model
from requant.merging.recipe import Recipe
from requant.sources import FileSlice, Memory, Source

#: Bytes of each of the pieces of a file that its fingerprint is made of, and how many pieces there are.
_PIECE: Final = 1 << 16
_PIECES: Final = 16


def fingerprint(path: Path) -> str:
    """What tells a file of weights from another in a moment: SHA-256 of its size and of sixteen pieces of 64 KiB, the
    first at its beginning, the last at its end, the others at equal distances."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for n in range(_PIECES):
            file.seek(max(0, size - _PIECE) * n // (_PIECES - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def weight_files(model: Model) -> tuple[Path, ...]:
    """The files that a model's tensors lie in."""
    tensors = (leaf for node in model.tensors.values() for leaf in node.leaves())
    slices = (source for tensor in tensors for source in tensor.sources.values())
    return tuple(sorted({source.path for source in slices if isinstance(source, FileSlice)}))


def inputs_of(models: Sequence[Model]) -> list[Json]:
    """The models and the fingerprints of their files; an SHA-256 by which the Hub's cache calls a file is told."""
    found: list[Json] = []
    for model in models:
        files: list[Json] = []
        for path in weight_files(model):
            entry: dict[str, Json] = {"name": path.name, "bytes": path.stat().st_size, "fingerprint": fingerprint(path)}
            blob = path.resolve()
            if blob.parent.name == "blobs" and len(blob.name) == 64:
                entry["sha256"] = blob.name
            files.append(entry)
        found.append({"model": str(model.reference), "files": files})
    return found


def card(recipe: Recipe, models: Sequence[Model], inputs: Sequence[Json], name: str, seed: int) -> Source:
    """README.md."""
    names = [model.reference.model for model in models]
    hub = [text for text in names if text.count("/") == 1 and not text.startswith((".", "/", "~"))]
    front = {"base_model": hub} if hub else {}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items())]
    lines += ['tags: ["merge", "requant"]', "library_name: transformers", "---", f"# {name}", ""]
    method = recipe.method
    title = f"[{method.title}]({method.paper})" if method.paper else method.title
    base = f", with {recipe.base} as the base" if recipe.base else ""
    lines += [f"Merged with requant by the method {title}{base}; seed {seed}.", "", "## Models", ""]
    for entry in inputs:
        assert isinstance(entry, dict)
        lines.append(f"* {entry['model']}")
        files = entry["files"]
        assert isinstance(files, list)
        lines += [
            f"  * `{f['name']}`, {f['bytes']:,} bytes, `{f['fingerprint']}`" for f in files if isinstance(f, dict)
        ]
    lines += ["", "Beside a file: SHA-256 of its size and of sixteen pieces of 64 KiB at equal distances.", ""]
    lines += ["## Recipe", "", "```yaml", recipe.text.rstrip(), "```", ""]
    return Memory("\n".join(lines).encode("utf-8", "surrogateescape"))


def key_values(recipe: Recipe, inputs: Sequence[Json], seed: int) -> tuple[tuple[str, Typed], ...]:
    """The same in a GGUF's metadata."""
    found: Mapping[str, Typed] = {
        "requant.merge.recipe": Typed("str", recipe.text),
        "requant.merge.inputs": Typed("str", json.dumps(inputs)),
        "requant.merge.seed": Typed("u64", seed),
    }
    return tuple(found.items())
