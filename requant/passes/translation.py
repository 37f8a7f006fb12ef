"""A checkpoint said in the other naming, part by part, by the tables of its family (`requant.architectures`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from requant.ir import Naming
from requant.passes.passing import Fact, Pass
from requant.plan import Translation


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of it, whose name is that in `requant.architectures.translate.Part`. target: the naming to say it in."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Fact]]
    ensures: ClassVar[frozenset[Fact]]
    target: Naming

    def __call__(self, said: Translation) -> Translation:
        """Raises `UnsupportedError` for what requant does not know, and `PlanError` for whatever contradicts itself."""
        from requant.architectures import translated

        return translated(said, self.target, self.name)


@dataclass(frozen=True, slots=True)
class Family(_Part):
    """The family is known, by class and model type or by architecture."""

    name: ClassVar[str] = "family"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.CLAIMED})
    ensures: ClassVar[frozenset[Fact]] = frozenset({Fact.RECOGNIZED})


@dataclass(frozen=True, slots=True)
class Hyperparameters(_Part):
    """Config.json is said in metadata, or metadata in config.json."""

    name: ClassVar[str] = "hyperparameters"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.RECOGNIZED})
    ensures: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED})


@dataclass(frozen=True, slots=True)
class Names(_Part):
    """Names, shapes and rows are those that the family's table says.

    It also says what is stacked, taken apart, turned or fused.
    """

    name: ClassVar[str] = "names"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED})
    ensures: ClassVar[frozenset[Fact]] = frozenset({Fact.NAMED})


@dataclass(frozen=True, slots=True)
class Besides(_Part):
    """What a family has besides its table is said, too.

    Frequency factors, patterns of windows, pooling, heads that classify.
    """

    name: ClassVar[str] = "besides"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.NAMED})
    ensures: ClassVar[frozenset[Fact]] = frozenset({Fact.COMPLETED})


@dataclass(frozen=True, slots=True)
class Leftovers(_Part):
    """No tensor is left over but those that are left out on purpose."""

    name: ClassVar[str] = "leftovers"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.COMPLETED})
    ensures: ClassVar[frozenset[Fact]] = frozenset()


@dataclass(frozen=True, slots=True)
class General(_Part):
    """Name, licence, origin and the like are said, and what else there is."""

    name: ClassVar[str] = "general"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.COMPLETED})
    ensures: ClassVar[frozenset[Fact]] = frozenset()


def translation(target: Naming) -> list[Pass]:
    """All parts, for lists that need not tell them one by one."""
    kinds = (Family, Hyperparameters, Names, Besides, Leftovers, General)
    return [kind(target) for kind in kinds]
