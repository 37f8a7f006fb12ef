"""Where `requant convert` writes: the destination it is given, or a name in the current folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from requant.encodings import Blocks
from requant.errors import PlanError
from requant.hub import HubModel
from requant.recipes import ALIASES, RECIPES, Recipe, recipe_named
from requant.schemes import SCHEMES

#: Stands for the recipe in a destination.
MARK: Final = "{}"
#: What names of models end in besides their own: a format, and the number of a shard.
_ENDS: Final = re.compile(r"(?:-\d{5}-of-\d{5})?\.(?:gguf|safetensors)|-GGUF", re.IGNORECASE)


def named_by(source: str, recipes: tuple[str, ...], format_name: str | None, *, projector: bool) -> Path:
    """`SmolLM2-135M-Q4_K_M.gguf`, `SmolLM2-135M-GPTQ`: by the source and the recipes, in the current folder.

    format_name: as `--format` says it. Raises `PlanError` where neither it nor the recipes say what is made.
    """
    if not recipes:
        raise PlanError("neither DESTINATION nor --to says what is made", hint="give it a name, such as model.gguf")
    known = {recipe: _known(recipe) for recipe in recipes}
    if projector:
        format_name = "gguf"
    kinds = {format_name or _kind(recipe, found) for recipe, found in known.items()}
    if len(kinds) > 1:
        raise PlanError(f"of {', '.join(recipes)}, some are of a GGUF and some of a folder", hint="a run for each kind")
    suffix = ".gguf" if kinds == {"gguf"} else ""
    first = known[recipes[0]]
    named = MARK if len(recipes) > 1 else first.name if first else recipes[0]
    return Path(f"{'mmproj-' if projector else ''}{stem_of(source)}-{named}{suffix}")


def stem_of(source: str) -> str:
    """What a model is called in the names of files made of it: by its path, or its name on the Hub.

    How it is stored now is no part of that.

    >>> stem_of("HuggingFaceTB/SmolLM2-135M@main"), stem_of("org/model-GGUF:Q8_0"), stem_of("org/m/x.y-Q8_0.gguf")
    ('SmolLM2-135M', 'model', 'x.y')
    """
    named = None if Path(source).exists() else HubModel.named(source)
    path = Path(named.file or named.repo if named else source)
    name = _ENDS.sub("", path.resolve().name if path.name in ("", "..") else path.name)  # a link has a name of its own
    *head, last = re.split("([-.])", name)
    stem = "".join(head[:-1]) if last.upper() in {**RECIPES, **ALIASES} else name
    return stem or name or "model"


def _known(recipe: str) -> Recipe | None:
    """The recipe of a GGUF of that name; None for schemes alone. Raises `PlanError` for what there is not."""
    return None if _is_scheme(recipe) and recipe not in RECIPES else recipe_named(recipe)


def _is_scheme(recipe: str) -> bool:
    return recipe.split("-")[0] in SCHEMES


def _kind(recipe: str, found: Recipe | None) -> str:
    """The format that a recipe is of; raises `PlanError` for what both can be."""
    if found is None:
        return "safetensors"
    if isinstance(found.main, Blocks) and not _is_scheme(recipe):
        return "gguf"
    raise PlanError(
        f"{found.name} is of a GGUF and of a folder", hint="--format gguf or --format safetensors, or a DESTINATION"
    )
