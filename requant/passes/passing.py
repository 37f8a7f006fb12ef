"""What a pass is, and how a list of them is made."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar, Protocol

from requant.plan import Passed, Translation


class Fact(Enum):
    """What passes need, and what they ensure."""

    CLAIMED = "every tensor and every key of a quantization config is known to something"
    RECOGNIZED = "the model's family is known"
    SIZED = "hyperparameters are those of the target, and the sizes that follow from them are known"
    NAMED = "every tensor has the name, the shape and the order of rows that the target gives it"
    COMPLETED = "what the family's table does not say is said, too"
    TYPED = "every tensor has an encoding"
    DESCRIBED = "metadata or config.json say how tensors are stored, and nothing that was true of the source alone"
    STEPPED = "every tensor has its step, with the importance of its columns"
    PLACED = "every byte of the output has its place"


class Pass(Protocol):
    """One step of planning: a frozen value, whose fields are what the user asked for.

    Its docstring begins with what `--explain` says it is for, in at most 72 letters. needs: facts that earlier passes
    must have ensured.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Fact]]
    ensures: ClassVar[frozenset[Fact]]

    def __call__(self, said: Translation) -> Translation:
        """`said` with what this pass decides; raises `PlanError` or `UnsupportedError` for what cannot be."""
        ...


def does(one: Pass) -> str:
    """What a pass says of itself: the first line of its docstring, without its full stop."""
    line = (type(one).__doc__ or "").partition("\n")[0].rstrip(".")
    return line if line[1:2].isupper() else line[:1].lower() + line[1:]


def check(passes: Sequence[Pass]) -> None:
    """ValueError for a list in which a pass comes before what it needs."""
    known: set[Fact] = set()
    for one in passes:
        if missing := one.needs - known:
            raise ValueError(f"{one.name} needs {', '.join(sorted(fact.name for fact in missing))}")
        known |= one.ensures


def made(passes: Sequence[Pass], said: Translation) -> tuple[Translation, tuple[Passed, ...]]:
    """What `passes` make of `said`, one after another, and what each of them did."""
    check(passes)
    trail = []
    for one in passes:
        before, said = said, one(said)
        trail.append(Passed(one.name, does(one), before, said))
    return said, tuple(trail)
