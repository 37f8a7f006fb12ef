"""What a quantization scheme answers; nobody asks which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from requant.encodings import Encoding
from requant.errors import PlanError
from requant.importance import Importance
from requant.ir import Json
from requant.losses import Loss
from requant.plan import Move
from requant.recipes import Overrides
from requant.schemes.linear import Applied

if TYPE_CHECKING:
    from requant.feedback import Feedback


class Scheme(ABC):
    """One scheme with its parameters: a frozen value."""

    __slots__ = ()

    @abstractmethod
    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Choose an encoding for every tensor; `config` is config.json of the model."""

    def weighing(self, importance: Importance) -> Self:
        """The same scheme with an importance matrix, whose entries have the names of the moves.

        Most have no choice to make by it: it only weighs when they round.
        """
        return self

    def correcting(self, feedback: Feedback) -> Self:
        """The same scheme for weights that are rounded with error feedback, of which config.json may say more."""
        return self

    def rehearsed(self) -> Self:
        """The same for a plan that will not be run: what it would measure is guessed, so that sizes are nearly right.

        Most measure nothing.
        """
        return self

    def regrouped(self, moves: Sequence[Move]) -> Iterable[tuple[str, Scheme]]:
        """The same scheme with each other size of its groups, as `--to` names it; the largest first.

        Most have none to choose from.
        """
        return ()

    def stores_stacks(self, config: Mapping[str, Json]) -> bool:
        """Whether experts that are parameters become stacks of linear layers, [experts, out, in]."""
        return False

    def overriding(self, overrides: Overrides) -> Self:
        """The same scheme with the user's departures from it; raises `PlanError` where it knows none."""
        if overrides != Overrides():
            raise PlanError(
                "--tensor-type, --pure and the like choose the types of a GGUF's tensors, or of MLX's modules",
                hint="leave them out, or let the destination's name end in .gguf",
            )
        return self

    def renamed(self, moves: Sequence[Move], config: Mapping[str, Json]) -> tuple[tuple[Move, ...], tuple[Loss, ...]]:
        """`moves`, by transformers' names, as the library that loads the scheme has them; and what it has no place for.

        Most are loaded by transformers.
        """
        return tuple(moves), ()

    @property
    def config_keys(self) -> tuple[str, ...]:
        """Where config.json says how weights are quantized."""
        return ("quantization_config",)

    @property
    def file_format(self) -> str:
        """What `__metadata__` of the weights says; "" for what transformers writes."""
        return ""

    @property
    def splits_fused(self) -> bool:
        """Whether projections that a family has fused are stored apart."""
        return False

    @property
    def measures(self) -> bool:
        """Whether encodings are chosen by reading weights, which takes its time."""
        return False


def check_departures(overrides: Overrides, fits: Callable[[Encoding], bool], what: str, example: str) -> None:
    """Raises `PlanError` for departures other than types that a scheme has, by modules' names.

    what: the types and modules there are, as the message has them.
    """
    strange = [encoding.label for _, encoding in overrides.tensor_types if not fits(encoding)]
    if strange or replace(overrides, tensor_types=()) != Overrides():
        why = f"not {strange[0]}" if strange else "and no other departure is known"
        raise PlanError(f"--tensor-type gives {what}, {why}", hint=f"--tensor-type {example}")
