"""Types for a GGUF of a given size, chosen by what they are predicted to cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from requant.allocation import allocated, options_of
from requant.encodings import Blocks, Encoding
from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor
from requant.layout import Format
from requant.operations.requantize import Request, plan_requantization
from requant.plan import Plan
from requant.statistics import Statistics


@dataclass(frozen=True, slots=True)
class Size:
    """nbytes: of all files together; bits: stored bits of one weight, if that is asked for instead."""

    nbytes: int | None = None
    bits: float | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """types: (name of a tensor, its encoding), as chosen. expected: the divergence that is predicted, nats per token;
    None without gradients, which say only how tensors compare."""

    types: tuple[tuple[str, Blocks], ...]
    expected: float | None

    @property
    def patterns(self) -> tuple[tuple[str, Encoding], ...]:
        """For `Overrides.tensor_types`: expressions for whole names, in small letters as llama-quantize has them."""
        return tuple((f"^{re.escape(name).lower()}$", encoding) for name, encoding in self.types)

    @property
    def recipe(self) -> str:
        """As `--tensor-type-file` reads it, here and in llama-quantize."""
        return "".join(f"{pattern}={encoding.label}\n" for pattern, encoding in self.patterns)


def plan_allocation(
    source: Checkpoint[Tensor],
    target: Format,
    destination: Path,
    request: Request,
    statistics: Statistics,
    size: Size,
    types: Sequence[str] = (),
) -> tuple[Plan, Allocation]:
    """A requantization of that size: the tensors that `request`'s recipe would round get one of `types` each.

    What the request's overrides name keeps its type. Raises `PlanError` for statistics that do not fit and for sizes
    that cannot be.
    """
    request = replace(request, importance=statistics.importance)
    before = plan_requantization(source, target, destination, replace(request, rehearsal=True))
    free = [step for step in before.steps if _is_free(step.target.name, step.target.encoding, request)]
    if not free:
        raise PlanError(f"{request.recipe} rounds no tensor, so that there is nothing to choose")
    budget = size.nbytes - before.layout.nbytes if size.nbytes is not None else 0
    if size.bits is not None:
        budget = int(size.bits * before.weights / 8) - sum(step.target.nbytes for step in before.steps)
    budget += sum(step.target.nbytes for step in free)
    chosen = allocated(options_of(free, statistics, types), budget)
    names = [step.target.name for step in free]
    expected = sum(option.loss for option in chosen) if statistics.has_gradients else None
    allocation = Allocation(
        tuple((name, option.encoding) for name, option in zip(names, chosen, strict=True)), expected
    )
    overrides = replace(request.overrides, tensor_types=(*request.overrides.tensor_types, *allocation.patterns))
    return plan_requantization(source, target, destination, replace(request, overrides=overrides)), allocation


def _is_free(name: str, encoding: Encoding, request: Request) -> bool:
    """Whether the recipe rounds it, and no option speaks of it."""
    overrides = request.overrides
    named = overrides.named(name) is not None
    named = named or (overrides.output is not None and name == "output.weight")
    named = named or (overrides.token_embedding is not None and name == "token_embd.weight")
    return isinstance(encoding, Blocks) and not named
