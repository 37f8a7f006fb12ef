"""What every tensor of a folder becomes: plain numbers, or what a quantization scheme makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, ClassVar, Final

from requant.encodings import BF16, F16, Blocks, Dense, Encoding
from requant.encodings.companions import Companioned
from requant.encodings.exactness import holds
from requant.importance import Importance
from requant.ir import QUANTIZATION_FILES, Json, Naming, Typed
from requant.passes.importance import in_hf_names
from requant.passes.passing import Fact
from requant.passes.steps import stored_encoding
from requant.plan import Translation

if TYPE_CHECKING:
    from requant.feedback import Feedback
    from requant.schemes.scheme import Scheme

#: Where config.json says how weights are quantized.
_KEYS: Final = ("quantization_config", "compression_config", "quantization")
#: What config.json calls the dtypes of weights.
_DTYPES: Final = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True, slots=True)
class Quantize:
    """Every tensor gets the encoding that the scheme gives it.

    importance, feedback: by names of GGML.
    """

    name: ClassVar = "types"
    needs: ClassVar = frozenset({Fact.NAMED})
    ensures: ClassVar = frozenset({Fact.TYPED})
    scheme: Scheme
    importance: Importance | None = None
    feedback: Feedback | None = None

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for a model that cannot be stored so."""
        from requant.schemes.proposal import proposal

        scheme, importance = self.scheme, None
        if self.importance is not None:
            importance = in_hf_names(self.importance, said.source, said.moves)
            scheme = scheme.weighing(importance)
        if self.feedback is not None:
            scheme = scheme.correcting(self.feedback)
        applied = scheme.apply(said.moves, said.config)
        hint = proposal(scheme, applied, said.moves, said.config)
        said = _without_quantization(said)
        said = replace(said, encodings=applied.encodings, importance=importance, quantization=applied.quantization)
        said = replace(said, hints=(*said.hints, hint) if hint else said.hints)
        return replace(said, files={**said.files, **applied.files}).losing(*applied.losses)


@dataclass(frozen=True, slots=True)
class Plain:
    """Every tensor gets the plain type asked for, or keeps its own.

    asked: None keeps what a folder can keep.
    """

    name: ClassVar = "types"
    needs: ClassVar = frozenset({Fact.NAMED})
    ensures: ClassVar = frozenset({Fact.TYPED})
    asked: Dense | None = None

    def __call__(self, said: Translation) -> Translation:
        """Nothing says that weights are quantized, once none is; a folder that is only copied keeps what it says."""
        own = F16
        if said.source.naming is Naming.GGML:
            from requant.architectures import half_of

            own = half_of(said.architecture)
        encodings = tuple(hf_encoding(stored_encoding(move), self.asked, own) for move in said.moves)
        converted = self.asked is not None or said.source.naming is Naming.GGML
        if converted and all(isinstance(encoding, Dense) for encoding in encodings):
            said = _without_quantization(said)
        return replace(said, encodings=encodings)


@dataclass(frozen=True, slots=True)
class Config:
    """config.json says how the weights are stored.

    kept: it says so already, of a folder that is only copied. scheme: which keys speak of it.
    """

    name: ClassVar = "config"
    needs: ClassVar = frozenset({Fact.TYPED})
    ensures: ClassVar = frozenset({Fact.DESCRIBED})
    kept: bool = False
    scheme: Scheme | None = None

    def __call__(self, said: Translation) -> Translation:
        """The dtype of most, and the scheme; the weights' own header says whose they are."""
        if self.kept:
            return said
        config, metadata = _with_dtype(said), dict(said.metadata)
        if said.quantization is not None and self.scheme is not None:
            config |= {key: dict(said.quantization) for key in self.scheme.config_keys}
            if self.scheme.file_format:
                metadata["format"] = Typed("str", self.scheme.file_format)
        return replace(said, config=config, metadata=metadata)


def _without_quantization(said: Translation) -> Translation:
    """The same, with nothing left that speaks of how the source was quantized."""
    config = {key: value for key, value in said.config.items() if key not in _KEYS}
    files = {name: source for name, source in said.files.items() if name not in QUANTIZATION_FILES}
    metadata = {key: typed for key, typed in said.metadata.items() if not _is_of_torchao(key, said.metadata)}
    return replace(said, config=config, files=files, metadata=metadata)


def _is_of_torchao(key: str, metadata: Mapping[str, Typed]) -> bool:
    """Whether a key of `__metadata__` says of which class of torchao's a tensor is, or lists all these tensors."""
    return "tensor_names" in metadata and (key == "tensor_names" or '"_type"' in str(metadata[key].value))


def hf_encoding(source: Encoding, asked: Dense | None, own: Dense = F16) -> Encoding:
    """What a tensor becomes in an HF folder without a scheme.

    Integers stay, numbers become `asked`. Unless asked everything stays but ggml's blocks, which become BF16 where
    that holds their values, and else `own`, in which the family is released.
    """
    if isinstance(source, Dense) and not source.dtype.is_float:
        return source
    if asked or not isinstance(source, Blocks | Companioned):
        return asked or source
    return BF16 if holds(source, BF16) else own


def _with_dtype(said: Translation) -> dict[str, Json]:
    """config.json says in which dtype most weights are stored, which is also what transformers computes in."""
    config: Mapping[str, Json] = said.config
    stored: dict[str, int] = {}
    for move, encoding in zip(said.moves, said.encodings, strict=True):
        name = _DTYPES.get(encoding.label)
        if name is not None and isinstance(encoding, Dense):
            stored[name] = stored.get(name, 0) + prod(move.shape) * encoding.dtype.bits
    if not config or not stored:
        return dict(config)
    key = "dtype" if "dtype" in config else "torch_dtype"
    name = max(stored, key=lambda name: stored[name])
    if name == "float16" and said.source.naming is Naming.GGML:
        from requant.architectures import outgrows_f16

        if outgrows_f16(said.architecture):
            name = "bfloat16"  # the weights fit into F16; what the model computes with them does not
    return {**config, key: name}
