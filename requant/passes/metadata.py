"""What a GGUF says of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final

from requant.importance import Importance
from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.passes.passing import Fact
from requant.passes.recipe import ggml_recipe, wanted_by
from requant.plan import Translation
from requant.recipes import Wanted, fitted, overridden, own_file_type, quantized_metadata

_FILE_TYPE: Final = "general.file_type"
#: Groups of keys in a GGUF made from an HF folder; "" stands for the architecture's and all others.
_ORDER: Final = ("general", "", "tokenizer", "quantize")


@dataclass(frozen=True, slots=True)
class ConvertedMetadata:
    """Metadata says how tensors are stored, as reference tools write it.

    A GGUF that is only copied keeps its metadata as it is. key_values: set in the end. like: a GGUF whose type of file
    is taken over.
    """

    name: ClassVar = "metadata"
    needs: ClassVar = frozenset({Fact.TYPED})
    ensures: ClassVar = frozenset({Fact.DESCRIBED})
    recipe: str
    key_values: tuple[tuple[str, Typed], ...] = ()
    importance: Importance | None = None
    like: Checkpoint[Tensor] | None = None

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for key-values that are not of the type that llama.cpp reads."""
        metadata = self._said(said)
        return replace(said, metadata=metadata if self.like is None else _of_the_like(metadata, self.like))

    def _said(self, said: Translation) -> dict[str, Typed]:
        recipe = ggml_recipe(self.recipe)
        if said.source.naming is Naming.GGML:
            if recipe.main is None:
                return overridden(said.metadata, fitted(said.metadata, self.key_values))
            return quantized_metadata(said.metadata, recipe, wanted_by(said), self.key_values, self.importance)
        pairs = zip(said.moves, said.encodings, strict=True)
        now = [Wanted(move.name, move.shape, encoding) for move, encoding in pairs]
        own = {**said.metadata, **own_file_type(now)}
        metadata = quantized_metadata(own, recipe, now, self.key_values, self.importance)
        return dict(sorted(metadata.items(), key=lambda item: _ORDER.index(_group(item[0]))))


@dataclass(frozen=True, slots=True)
class RequantizedMetadata:
    """Metadata says how the tensors are stored, as llama-quantize writes it.

    key_values: set in the end. like: a GGUF whose type of file is taken over.
    """

    name: ClassVar = "metadata"
    needs: ClassVar = frozenset({Fact.TYPED})
    ensures: ClassVar = frozenset({Fact.DESCRIBED})
    recipe: str
    key_values: tuple[tuple[str, Typed], ...] = ()
    importance: Importance | None = None
    like: Checkpoint[Tensor] | None = None

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for key-values that are not of the type that llama.cpp reads."""
        before = [Wanted(tensor.name, tensor.shape, tensor.encoding) for tensor in said.source.tensors]
        recipe = ggml_recipe(self.recipe)
        metadata = quantized_metadata(said.metadata, recipe, before, self.key_values, self.importance)
        return replace(said, metadata=metadata if self.like is None else _of_the_like(metadata, self.like))


def _of_the_like(metadata: dict[str, Typed], like: Checkpoint[Tensor]) -> dict[str, Typed]:
    """Metadata with the type of file of the GGUF to be like, if it says one."""
    said = like.metadata.get(_FILE_TYPE)
    return metadata if said is None else metadata | {_FILE_TYPE: said}


def _group(key: str) -> str:
    group = key.partition(".")[0]
    return group if group in _ORDER else ""
