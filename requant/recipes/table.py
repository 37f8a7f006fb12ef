"""The named mixes of llama-quantize: what users type, the number files carry, and what most tensors become.

Source: llama.cpp's `QUANT_OPTIONS`, `enum llama_ftype` and `llama_ftype_get_default_type`. NVFP4 has a
number and a name there but llama-quantize does not offer it; here it is a mix like its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from requant.digits import whole
from requant.encodings import BF16, BLOCKS, F16, F32, Blocks, Encoding
from requant.errors import PlanError
from requant.file_types import GUESSED
from requant.nearest import did_you_mean


@dataclass(frozen=True, slots=True)
class Recipe:
    """One mix.

    name: as users type it. file_type: `general.file_type` of a file made so; None for COPY, which keeps the file's own.
    main: what a tensor becomes that no rule singles out; None for COPY.
    """

    name: str
    file_type: int | None
    main: Encoding | None

    @property
    def is_quantized(self) -> bool:
        """Whether most tensors end in blocks; only then do the mixture rules apply."""
        return isinstance(self.main, Blocks)


#: The encodings a tensor can be asked to have, by label.
ENCODINGS: Final[Mapping[str, Encoding]] = {"F32": F32, "F16": F16, "BF16": BF16, **BLOCKS}

_ROWS: Final = (
    ("F32", 0, "F32"),
    ("F16", 1, "F16"),
    ("Q4_0", 2, "Q4_0"),
    ("Q4_1", 3, "Q4_1"),
    ("Q8_0", 7, "Q8_0"),
    ("Q5_0", 8, "Q5_0"),
    ("Q5_1", 9, "Q5_1"),
    ("Q2_K", 10, "Q2_K"),
    ("Q3_K_S", 11, "Q3_K"),
    ("Q3_K_M", 12, "Q3_K"),
    ("Q3_K_L", 13, "Q3_K"),
    ("Q4_K_S", 14, "Q4_K"),
    ("Q4_K_M", 15, "Q4_K"),
    ("Q5_K_S", 16, "Q5_K"),
    ("Q5_K_M", 17, "Q5_K"),
    ("Q6_K", 18, "Q6_K"),
    ("IQ2_XXS", 19, "IQ2_XXS"),
    ("IQ2_XS", 20, "IQ2_XS"),
    ("Q2_K_S", 21, "Q2_K"),
    ("IQ3_XS", 22, "IQ3_S"),
    ("IQ3_XXS", 23, "IQ3_XXS"),
    ("IQ1_S", 24, "IQ1_S"),
    ("IQ4_NL", 25, "IQ4_NL"),
    ("IQ3_S", 26, "IQ3_S"),
    ("IQ3_M", 27, "IQ3_S"),
    ("IQ2_S", 28, "IQ2_XS"),
    ("IQ2_M", 29, "IQ2_S"),
    ("IQ4_XS", 30, "IQ4_XS"),
    ("IQ1_M", 31, "IQ1_M"),
    ("BF16", 32, "BF16"),
    ("TQ1_0", 36, "TQ1_0"),
    ("TQ2_0", 37, "TQ2_0"),
    ("MXFP4_MOE", 38, "MXFP4"),
    ("NVFP4", 39, "NVFP4"),
    ("Q1_0", 40, "Q1_0"),
    ("Q2_0", 41, "Q2_0"),
)

#: Every recipe by name, COPY last.
RECIPES: Final[Mapping[str, Recipe]] = {
    **{name: Recipe(name, number, ENCODINGS[main]) for name, number, main in _ROWS},
    "COPY": Recipe("COPY", None, None),
}

#: Shorter names llama-quantize takes.
ALIASES: Final[Mapping[str, str]] = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

#: What llama.cpp takes a file without `general.file_type` for, by its most frequent type; else "all F32".
_GUESSES: Final[Mapping[str, str]] = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "F32"}


def recipe_named(text: str) -> Recipe:
    """The recipe a user means by a name in any case, an alias, or a file-type number.

    >>> recipe_named("q4_k").name, recipe_named("15").name
    ('Q4_K_M', 'Q4_K_M')
    """
    name = text.upper()
    name = ALIASES.get(name, name)
    if name in RECIPES:
        return RECIPES[name]
    number = whole(text)
    if number is not None:
        for recipe in RECIPES.values():
            if recipe.file_type == number:
                return recipe
    raise PlanError(
        f"there is no quantization type {text!r}", hint=did_you_mean(text, RECIPES, "one of " + ", ".join(RECIPES))
    )


def encoding_named(text: str) -> Encoding:
    """The encoding a user means by a ggml type name in any case; one that a model's tensors can be written in."""
    encoding = ENCODINGS.get(text.upper())
    if encoding is None:
        raise PlanError(
            f"no tensor can be stored as {text!r}",
            hint=did_you_mean(text, ENCODINGS, "one of " + ", ".join(ENCODINGS)),
        )
    return encoding


def guessed_file_type(encodings: Iterable[Encoding]) -> int:
    """The `general.file_type` llama.cpp assumes for a file that has none: its most frequent type's, plus 1024.

    encodings: of the tensors in llama.cpp's order; of two equally frequent types the one that got there first counts.
    """
    counts: dict[str, int] = {}
    most, label = 0, "F32"
    for encoding in encodings:
        counts[encoding.label] = counts.get(encoding.label, 0) + 1
        if counts[encoding.label] > most:
            most, label = counts[encoding.label], encoding.label
    recipe = RECIPES.get(_GUESSES.get(label, label))
    return GUESSED + (recipe.file_type or 0 if recipe else 0)
