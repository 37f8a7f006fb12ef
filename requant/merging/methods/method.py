"""What a method of merging is: its parameters and demands as data, and a formula for the rows of one tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Halves, Values
from requant.encodings import Shape, columns_of, rows_of
from requant.expressions import Node, Reduction, Scratch
from requant.merging.precision import Precision

#: A parameter's value for one tensor; None where a method takes that as a choice of its own.
Value = bool | int | float | None
#: The values of all models at the same rows: float32 [models, rows, columns].
Stack = NDArray[np.float32]
#: The same as the bits of 16-bit floats.
HalfStack = NDArray[np.uint16]


class Scope(Enum):
    """Of what a parameter may have a value of its own."""

    TENSOR = "tensor"
    INPUT = "input"  # every model
    OTHER = "other"  # every model but the base


class Base(Enum):
    """Whether there is a base model, from which the others differ."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    IGNORED = "ignored"  # a model like any other


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter, by mergekit's name. kind: bool, int or float. choice: None is a value too, and the default.
    share: it is of 0 to 1."""

    name: str
    kind: type[bool] | type[int] | type[float]
    scope: Scope = Scope.TENSOR
    default: Value = None
    choice: bool = False
    share: bool = False

    @property
    def required(self) -> bool:
        """Whether a recipe must give it."""
        return self.default is None and not self.choice


@dataclass(frozen=True, slots=True)
class Setting:
    """One tensor to be merged.

    name: in Hugging Face's naming. shape: of the tensor in every model. base: which of the models is the base.
    shared, each: parameters by name, those of the tensor and those of every model. seed: of random methods.
    """

    name: str
    shape: Shape
    base: int | None
    shared: Mapping[str, Value]
    each: tuple[Mapping[str, Value], ...]
    precision: Precision
    seed: int = 0

    @property
    def models(self) -> int:
        """How many there are."""
        return len(self.each)

    @property
    def others(self) -> tuple[int, ...]:
        """Those that are not the base."""
        return tuple(n for n in range(self.models) if n != self.base)

    @property
    def rows(self) -> int:
        """Of the tensor as a matrix."""
        return rows_of(self.shape)

    @property
    def columns(self) -> int:
        """Of the tensor as a matrix."""
        return columns_of(self.shape)

    @property
    def size(self) -> int:
        """Values of the tensor."""
        return prod(self.shape)

    def number(self, name: str, model: int | None = None) -> float:
        """A parameter's value as a number."""
        value = (self.shared if model is None else self.each[model])[name]
        assert value is not None
        return float(value)


@dataclass(frozen=True, slots=True)
class Formula(ABC):
    """How the rows of several models become those of one tensor."""

    setting: Setting
    #: Whether it has `fill_halves`.
    in_halves: ClassVar[bool] = False

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """What must be known of the whole tensor first; `inputs` are the models' tensors."""
        return ()

    def buffers(self) -> int:
        """Float32 buffers of a run's size that `fill` takes, besides the models' rows and its own."""
        return 1

    @abstractmethod
    def fill(self, stack: Stack, first: int, known: Sequence[Any], out: Values, scratch: Scratch) -> None:
        """The rows from `first` on; `known` are the results of the reductions."""

    def fill_halves(self, stack: HalfStack, known: Sequence[Any], out: Halves) -> bool:
        """The same from and to numbers of the precision, a 16-bit one, as their bits: what `fill` makes, rounded.

        Whether all results are finite; they are not where one of the models' values is not.
        """
        raise NotImplementedError(f"{type(self).__name__} has no halves")


@dataclass(frozen=True, slots=True)
class Method:
    """One way to merge.

    title, paper: for people. parameters: all that it takes. inputs, others: the least and the most models, and models
    besides the base. formula: of one tensor. idle: parameters that recipes may have and that change nothing. draws:
    whether it heeds the seed.
    """

    name: str
    title: str
    paper: str
    formula: Callable[[Setting], Formula]
    parameters: tuple[Parameter, ...] = ()
    base: Base = Base.IGNORED
    inputs: tuple[int, int | None] = (1, None)
    others: tuple[int, int | None] = (0, None)
    check: Callable[[Setting], str] = lambda setting: ""
    idle: frozenset[str] = frozenset()
    draws: bool = False

    def parameter(self, name: str) -> Parameter | None:
        """By its name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)
