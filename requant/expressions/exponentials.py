"""The decay of state-space layers: HF folders keep its logarithm, ggml the number that is multiplied by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from requant.codecs import Values
from requant.expressions.elementwise import Elementwise
from requant.expressions.single import Single


@dataclass(frozen=True, slots=True)
class NegExp(Single, Elementwise):
    """-exp(x) in float32: `A_log` as `ssm_a`.

    Source: `MambaModel.modify_tensors` in llama.cpp's conversion code.
    """

    def explain(self) -> str:
        """For example `-exp(A_log)`."""
        return f"-exp({self.of.explain()})"

    def change(self, values: Values, rows: range) -> None:
        """In place."""
        np.exp(values, out=values)
        np.negative(values, out=values)


@dataclass(frozen=True, slots=True)
class LogNeg(Single, Elementwise):
    """log(-x) in float32, the inverse; what is not negative becomes NaN, which is refused before it is stored."""

    def explain(self) -> str:
        """For example `log(-ssm_a)`."""
        return f"log(-{self.of.explain()})"

    def change(self, values: Values, rows: range) -> None:
        """In place."""
        np.negative(values, out=values)
        with np.errstate(all="ignore"):
            np.log(values, out=values)
