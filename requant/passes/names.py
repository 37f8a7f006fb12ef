"""Names, shapes and orders of rows as the target has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar, Final

from requant.expressions import Stored, reshaped
from requant.ir import Tensor
from requant.layout import LayoutOptions
from requant.losses import Loss, LossKind
from requant.passes.passing import Fact
from requant.plan import Move, Translation
from requant.recipes import file_order, ggml_shape, pruned_metadata, pruned_names
from requant.sources import FileSlice

if TYPE_CHECKING:
    from requant.schemes.scheme import Scheme

#: Stacks of experts as transformers 5 has them.
_STACK: Final = re.compile(r".*\.experts\.(?:gate_up|down)_proj")
_STACKED: Final = "transformers 5 loads experts in stacks; transformers 4 and mlx-lm load single ones"


@dataclass(frozen=True, slots=True)
class OwnNames:
    """Tensors keep their names, shapes and rows."""

    name: ClassVar = "names"
    needs: ClassVar = frozenset({Fact.CLAIMED})
    ensures: ClassVar = frozenset({Fact.NAMED})

    def __call__(self, said: Translation) -> Translation:
        """Nothing changes."""
        return said


@dataclass(frozen=True, slots=True)
class FamilyNames:
    """Tensors get the names by which transformers loads them.

    Libraries have others, for stacks of experts above all. scheme: the quantization; where it stores linear layers,
    stacks become single experts. Plain numbers stay in stacks that transformers 5 loads, which is told.
    """

    name: ClassVar = "names"
    needs: ClassVar = frozenset({Fact.CLAIMED})
    ensures: ClassVar = frozenset({Fact.NAMED})
    scheme: Scheme | None = None

    def __call__(self, said: Translation) -> Translation:
        """Raises `UnsupportedError` for names of other libraries that no family's table has."""
        from requant.architectures import own_names

        single = self.scheme is not None and not self.scheme.stores_stacks(said.config)
        moves = own_names(said.moves, said.config, said.architecture, single=single)
        own = said.config.get("model_type") == "gpt_oss"  # which never had others
        stacks = [] if own else [move.name for move in moves if _STACK.fullmatch(move.name)]
        told = [] if self.scheme is not None else [Loss(LossKind.UNLOADED, name, _STACKED) for name in stacks]
        return replace(said, moves=moves).losing(*told)


@dataclass(frozen=True, slots=True)
class FileOrder:
    """Tensors come as llama.cpp writes them, without pruned layers.

    prune: layers to leave out; the others are numbered anew. keep_split: in the order of the source's files instead.
    """

    name: ClassVar = "names"
    needs: ClassVar = frozenset({Fact.CLAIMED})
    ensures: ClassVar = frozenset({Fact.NAMED})
    prune: tuple[int, ...] = ()
    keep_split: bool = False

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for layers that are not there."""
        by_name = {tensor.name: tensor for tensor in said.source.tensors}
        names = pruned_names(by_name, self.prune) if self.prune else {name: name for name in file_order(by_name)}
        if self.keep_split:
            # llama.cpp's order would mix the files
            in_files = sorted(said.source.tensors, key=_place)
            names = {tensor.name: names[tensor.name] for tensor in in_files if tensor.name in names}
        before = [by_name[old] for old in names]
        moves = tuple(
            Move(new, reshaped(Stored(tensor), ggml_shape(tensor.shape)))
            for new, tensor in zip(names.values(), before, strict=True)
        )
        return replace(said, moves=moves).losing(*filter(None, map(_told, moves, before)))


@dataclass(frozen=True, slots=True)
class PrunedNames:
    """Layers are left out, and the others numbered anew.

    prune: layers, at least one.
    """

    name: ClassVar = "layers"
    needs: ClassVar = frozenset({Fact.NAMED})
    ensures: ClassVar = frozenset[Fact]()
    prune: tuple[int, ...]

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for layers that are not there."""
        names = pruned_names((move.name for move in said.moves), self.prune)
        return replace(
            said, moves=tuple(replace(move, name=names[move.name]) for move in said.moves if move.name in names)
        )


@dataclass(frozen=True, slots=True)
class PrunedMetadata:
    """Metadata says how many layers are left."""

    name: ClassVar = "layers"
    needs: ClassVar = frozenset({Fact.DESCRIBED})
    ensures: ClassVar = frozenset[Fact]()
    prune: tuple[int, ...]

    def __call__(self, said: Translation) -> Translation:
        """As llama-quantize counts them."""
        metadata = pruned_metadata(said.metadata, said.architecture, self.prune)
        return replace(said, metadata=metadata)


def _told(move: Move, before: Tensor) -> Loss | None:
    """llama-quantize writes [1, n] as [n]; llama.cpp reads both, loaders of image models compare."""
    if move.shape == before.shape:
        return None
    detail = f"{list(before.shape)} becomes {list(move.shape)}, as llama-quantize writes it; `requant convert` keeps it"
    return Loss(LossKind.UNLOADED, move.name, detail)


def as_split(moves: Sequence[Move], cut: LayoutOptions) -> LayoutOptions:
    """`cut` with as many files as the source has, and the same tensors in each."""
    files = [_place(move.inputs[0])[0] for move in moves]
    return replace(cut, shard_counts=tuple(len(list(group)) for _, group in groupby(files)))


def _place(tensor: Tensor) -> tuple[str, int]:
    """The file a tensor lies in and where: the names of shards sort as their numbers do."""
    slice_ = tensor.sources["data"]
    return (slice_.path.name, slice_.offset) if isinstance(slice_, FileSlice) else ("", 0)
