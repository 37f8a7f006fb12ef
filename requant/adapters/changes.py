"""What an adapter changes, whatever file it comes from: a list of changes, each of one tensor of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from requant.expressions import Node
from requant.ir import Naming
from requant.sources import Source

if TYPE_CHECKING:
    from requant.adapters.config import AdapterConfig


@dataclass(frozen=True, slots=True)
class Kind:
    """What a product may be of: a parameter of a module, with the rank and the scale it then has."""

    parameter: str
    rank: int
    scale: float


@dataclass(frozen=True, slots=True)
class Product:
    """scale * up @ down is added to a parameter.

    target: the module, such as `model.layers.0.self_attn.q_proj`; of GGUF adapters the tensor. up: [out, rank]. down:
    [rank, in]. kinds: what parameter of the module it is of; several where the adapter does not say which, so that
    shapes must. Of stacks of experts PEFT interleaves the factors: rows of `down` expert by expert, columns of `up`
    rank by rank; in GGUF they are stacks. depth: how many others of the same module it lies inside. lengths: of DoRA.
    embedding: up is [tokens, rank], and DoRA's lengths are those of columns. name: of a tensor of the adapter, for
    messages.
    """

    target: str
    up: Node
    down: Node
    kinds: tuple[Kind, ...]
    name: str
    depth: int = 0
    lengths: Node | None = None
    embedding: bool = False

    @property
    def rank(self) -> int:
        """Of what it is most likely of."""
        return self.kinds[0].rank


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor of the model is replaced: modules_to_save, trained biases, embeddings that were resized.

    target: the tensor's name.
    """

    target: str
    values: Node
    name: str


@dataclass(frozen=True, slots=True)
class Shift:
    """scale * values is added to a module's bias (`lora_bias`)."""

    target: str
    values: Node
    scale: float
    name: str


@dataclass(frozen=True, slots=True)
class TrainedTokens:
    """Rows of an embedding that were trained by themselves take the place of the model's.

    target: the module. values: [tokens, columns].
    """

    target: str
    values: Node
    tokens: tuple[int, ...]
    name: str


Change = Product | Whole | Shift | TrainedTokens


@dataclass(frozen=True, slots=True)
class Adapter:
    """changes: in the file's order. naming: whose names and orders of rows they follow. base: the model that the
    adapter says it is for; "" where it does not. config: of PEFT's adapters. files: what lies beside."""

    path: Path
    naming: Naming
    changes: tuple[Change, ...]
    base: str = ""
    architecture: str = ""
    config: AdapterConfig | None = None
    files: Mapping[str, Source] = field(default_factory=dict, compare=False, repr=False)
    opened: tuple[Source, ...] = field(default=(), compare=False, repr=False)

    @property
    def products(self) -> tuple[Product, ...]:
        """The changes of low rank."""
        return tuple(change for change in self.changes if isinstance(change, Product))

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return self.path.name or str(self.path)
