"""What HF folders keep the logarithm of, or nearly, and ggml what is multiplied by: decays of state-space layers, and
scales of the queries of Gemma 4's ears."""

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


@dataclass(frozen=True, slots=True)
class Softplus(Single, Elementwise):
    """log(1 + exp(x)), reckoned in float64 and rounded once to float32.

    Source: `Gemma4VisionAudioModel.modify_tensors` in llama.cpp's conversion code.
    """

    def explain(self) -> str:
        """For example `softplus(per_dim_scale)`."""
        return f"softplus({self.of.explain()})"

    def change(self, values: Values, rows: range) -> None:
        """In place."""
        values[...] = np.logaddexp(values.astype(np.float64), 0)


@dataclass(frozen=True, slots=True)
class LogExpLess(Single, Elementwise):
    """log(exp(x) - 1), the inverse; what is not above 0 becomes NaN, which is refused before it is stored."""

    def explain(self) -> str:
        """For example `log(exp(per_dim_scale) - 1)`."""
        return f"log(exp({self.of.explain()}) - 1)"

    def change(self, values: Values, rows: range) -> None:
        """In place."""
        wide = values.astype(np.float64)
        with np.errstate(all="ignore"):
            values[...] = wide + np.log(-np.expm1(-wide))
