"""How large a recipe makes a model and what it costs, in the figures that llama.cpp publishes.

Source: tools/quantize of llama.cpp b11549. Bits are those of its README.md, of Llama-3.1-8B, the whole file over its
weights; of recipes that are not measured there, those of the type that most tensors get. The rise in perplexity is that
of `QUANT_OPTIONS` in quantize.cpp, for Llama-3-8B. They rank recipes; another model has others, which `requant check
--against` measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from requant.encodings import Blocks, Dense
from requant.recipes.table import RECIPES


@dataclass(frozen=True, slots=True)
class Note:
    """bits: per weight. measured: of a whole model, else of the type alone. perplexity: its rise, where it is known."""

    bits: float
    measured: bool
    perplexity: float | None

    @property
    def text(self) -> str:
        """In words.

        >>> NOTES["Q4_K_M"].text, NOTES["IQ2_S"].text
        ('4.89 bits per weight, perplexity +0.1754', '2.74 bits per weight')
        """
        rise = "" if self.perplexity is None else f", perplexity {self.perplexity:+.4f}"
        return f"{self.bits:.2f} bits per weight{rise}"


# fmt: off
_BITS: Final = {
    "IQ1_S": 2.0042, "IQ1_M": 2.1460, "IQ2_XXS": 2.3824, "IQ2_XS": 2.5882, "IQ2_S": 2.7403, "IQ2_M": 2.9294,
    "IQ3_XXS": 3.2548, "IQ3_XS": 3.4977, "IQ3_S": 3.6606, "IQ3_M": 3.7628, "IQ4_XS": 4.4597, "IQ4_NL": 4.6818,
    "Q2_K_S": 2.9697, "Q2_K": 3.1593, "Q3_K_S": 3.6429, "Q3_K_M": 3.9960, "Q3_K_L": 4.2979, "Q4_K_S": 4.6672,
    "Q4_K_M": 4.8944, "Q5_K_S": 5.5704, "Q5_K_M": 5.7036, "Q6_K": 6.5633, "Q8_0": 8.5008, "F16": 16.0005,
}
_PERPLEXITY: Final = {
    "Q4_0": 0.4685, "Q4_1": 0.4511, "Q5_0": 0.1316, "Q5_1": 0.1062, "Q2_K": 3.5199, "Q2_K_S": 3.1836,
    "Q3_K_S": 1.6321, "Q3_K_M": 0.6569, "Q3_K_L": 0.5562, "Q4_K_S": 0.2689, "Q4_K_M": 0.1754, "Q5_K_S": 0.1049,
    "Q5_K_M": 0.0569, "Q6_K": 0.0217, "Q8_0": 0.0026,
}
# fmt: on


def _note(name: str) -> Note:
    main = RECIPES[name].main
    assert isinstance(main, Blocks | Dense)
    own = main.bits_per_weight if isinstance(main, Blocks) else main.dtype.bits
    return Note(_BITS.get(name, own), name in _BITS, _PERPLEXITY.get(name))


#: Recipe -> its note; COPY has none.
NOTES: Final[Mapping[str, Note]] = {name: _note(name) for name in RECIPES if name != "COPY"}
