"""Types in which llama.cpp computes some tensors of a projector, whatever the others are.

Source: `tensor_force_quant` in llama.cpp's conversion code, of all projectors and of each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from requant.encodings import F16, F32
from requant.errors import PlanError
from requant.ir import PROJECTOR
from requant.recipes.choose import Choice, Wanted
from requant.recipes.facts import Facts
from requant.recipes.options import Overrides
from requant.recipes.table import Recipe

#: What a projector may be; its matrices are small, and llama.cpp's tools make nothing else of one.
TAKEN: Final = frozenset({"F32", "F16", "BF16", "Q8_0", "COPY"})
_PATCHES: Final = re.compile(r".*\.(?:patch_embd|patch_merger)\.weight.*")
_TYPES: Final = {"F16": F16, "F32": F32}
_KINDS: Final = ("clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type")


def with_forced(
    chosen: tuple[Choice, ...], tensors: Sequence[Wanted], recipe: Recipe, facts: Facts, overrides: Overrides
) -> tuple[Choice, ...]:
    """`chosen` for `tensors`, with what must be where it must be; other options for it are told as substituted."""
    if facts.architecture != PROJECTOR:
        return chosen
    if recipe.name not in TAKEN:
        raise PlanError(
            f"a projector cannot be {recipe.name}: llama.cpp has no mix for one", hint="--to F16, BF16, F32 or Q8_0"
        )
    patterns = _patterns(facts)
    return tuple(
        _forced(tensor, recipe, patterns, overrides) or choice for tensor, choice in zip(tensors, chosen, strict=True)
    )


def _forced(
    tensor: Wanted, recipe: Recipe, patterns: tuple[tuple[str, str], ...], overrides: Overrides
) -> Choice | None:
    """What a tensor must be; None where nothing forces it."""
    if len(tensor.shape) <= 1 or tensor.name.endswith("_norm.weight"):
        return None
    must = next((_TYPES[label] for pattern, label in patterns if re.fullmatch(pattern, tensor.name)), None)
    if must is None and _PATCHES.fullmatch(tensor.name):
        narrow = tensor.encoding if recipe.main is None else recipe.main
        must = F16 if narrow == F16 else F32
    if must is None:
        return None
    asked = overrides.named(tensor.name)
    return Choice(must, f"llama.cpp computes it in {must.label}", None if asked in (None, must) else asked)


def _patterns(facts: Facts) -> tuple[tuple[str, str], ...]:
    from requant.projectors import index

    kinds = {str(facts.metadata[key].value) for key in _KINDS if key in facts.metadata}
    return tuple(item for one in index.every() if kinds & set(one.kinds) for item in one.forced)
