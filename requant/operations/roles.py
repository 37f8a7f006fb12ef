"""How far a GGUF diverges from itself in llama.cpp when the matrices of one role are rounded.

It stands for gradients, where there are none: errors of one tensor's types compare by the tensor's own statistics, and
those of tensors of different roles by what rounding all of a role has cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from requant.divergence import losses_of
from requant.encodings import BLOCKS, Blocks, Encoding
from requant.errors import PlanError
from requant.execution import execute
from requant.expected import role_name
from requant.importance import Measured
from requant.ir import Checkpoint, Tensor
from requant.operations.requantize import Request, plan_requantization
from requant.plan import Plan, Step
from requant.recipes import Overrides
from requant.statistics import Statistics
from requant.verify.llama_cpp import LlamaCpp
from requant.verify.logits import Comparison, Window, scored_blocks

#: What a role is rounded to: the first type that a matrix's rows fit. It costs enough to be told from noise.
_TYPES: Final = ("Q3_K", "Q4_0")
#: Windows that are compared; divergences of whole models differ more than by what a few windows miss.
_WINDOWS: Final = 8
#: The mix whose matrices are looked at: whatever it rounds.
_MIX: Final = "Q4_K_M"
_FILE: Final = "rounded.gguf"


def measure_roles(
    path: Path,
    model: Checkpoint[Tensor],
    statistics: Statistics,
    windows: Sequence[tuple[int, ...]],
    folder: Path,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
) -> dict[str, Measured]:
    """By role: sums [1, 2] over windows of the shares of outputs that were error, and of the divergence in nats.

    path: the model, a GGUF. folder: receives the model with one role rounded, one after another; each is deleted.
    Raises `PlanError` for what predicts no next token.
    """
    chosen = [Window(tokens, 0) for tokens in windows[:_WINDOWS]]  # they are in no order
    before = _plan(model, folder, Overrides(), statistics, rehearsal=True)
    rounded = [step for step in before.steps if isinstance(step.target.encoding, Blocks)]
    types = {step.target.name: one for step in rounded if (one := _type(step)) is not None}
    roles = sorted({role_name(name) for name in types})
    stored = {step.target.name: step.sources[0] for step in before.steps if len(step.target.shape) > 1}
    found: dict[str, Measured] = {}
    with LlamaCpp(path, n_ctx=len(chosen[0].tokens)) as reference:
        if not reference.info.causal:
            raise PlanError("an encoder predicts no next token, which roles are measured by", hint="leave out --roles")
        for number, role in enumerate(roles):
            progress("roles", number / len(roles))
            own = {name: one for name, one in types.items() if role_name(name) == role}
            patterns = tuple((f"^{re.escape(name).lower()}$", one) for name, one in {**stored, **own}.items())
            plan = _plan(model, folder, Overrides(tensor_types=patterns), statistics)
            steps = [step for step in plan.steps if step.target.name in own]
            shares = losses_of(steps, statistics, [[step.target.encoding] for step in steps])
            execute(plan, overwrite=True)
            share, kl = sum(sum(one.values()) for one in shares), _divergence(reference, folder / _FILE, chosen)
            (folder / _FILE).unlink()
            if share > 0 and kl > 0:  # else it was of that type already, which says nothing of what errors cost
                sums = np.array([[share * len(chosen), kl * len(chosen)]], np.float32)
                found[role] = Measured(sums, np.array([len(chosen)], np.int64))
    progress("roles", 1.0)
    return found


def _type(step: Step) -> Encoding | None:
    columns = step.target.shape[-1]
    return next((BLOCKS[one] for one in _TYPES if columns % BLOCKS[one].values == 0), None)


def _plan(
    model: Checkpoint[Tensor], folder: Path, overrides: Overrides, statistics: Statistics, *, rehearsal: bool = False
) -> Plan:
    request = Request(_MIX, overrides, statistics.rounding, rehearsal=rehearsal)
    return plan_requantization(model, "gguf", folder / _FILE, request)


def _divergence(reference: LlamaCpp, rounded: Path, windows: Sequence[Window]) -> float:
    """Mean over all tokens of the windows."""
    found = Comparison()
    with LlamaCpp(rounded, n_ctx=len(windows[0].tokens)) as other:
        for (truth, said), targets in scored_blocks((reference, other), windows):
            found.add(said, truth, targets)
    return found.measure().kl.value
