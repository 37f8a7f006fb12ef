"""The state of Mamba 2 and its hybrids: its numbers are those of its heads, and a multiple of the model's width."""

from __future__ import annotations

from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rules import Config, Sizes
from requant.errors import PlanError

_WIDTH: Final = "mamba_d_head"


def check_width(config: Config, sizes: Sizes) -> None:
    """`PlanError` where config.json's heads, of the width that it says, are not the state."""
    inner, heads, width = sizes["inner"], sizes["linear_heads"], config.get(_WIDTH, "auto")
    if not heads or inner % heads or width not in ("auto", None, inner // heads):
        raise PlanError(f"config.json: {heads} heads of {shown(width)} are not the {inner} numbers of the state")


def width_of_heads(sizes: Sizes) -> int:
    """Numbers per head; `PlanError` where a GGUF's heads do not make up the state."""
    inner, heads = sizes["inner"], sizes["linear_heads"]
    if not heads or inner % heads:
        raise PlanError(f"metadata: ssm.inner_size is {inner}, of {heads} heads")
    return inner // heads


def expansion(sizes: Sizes) -> int:
    """How many times as wide as the model the state is; `PlanError` where it is no whole number."""
    inner, hidden = sizes["inner"], sizes["hidden"]
    if inner % hidden:
        raise PlanError(f"metadata: ssm.inner_size is {inner} in a model of {hidden}")
    return inner // hidden
