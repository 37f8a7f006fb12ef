"""What a model takes to run in llama.cpp: memory by the type of its cache, and how fast memory lets it be at most."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from requant.ir import Checkpoint, Json, Naming, Tensor, Typed, flat_config
from requant.layered import number
from requant.metadata import first_count
from requant.operations.cache import MICRO_BATCH, WITHOUT, cache_bytes, caches_of, metadata_of
from requant.operations.placed import Placed
from requant.system import USUAL_BANDWIDTH

#: A context that many people use, where a model was trained with more.
_USUAL_CONTEXT: Final = 4096
_EXPERT: Final = re.compile(r"_exps(?:\.|$)|\.experts\.")
_OUTPUT: Final = re.compile(r"output\.weight|(?:.*\.)?lm_head\.(?:.*\.)?weight")
_EMBEDDING: Final = re.compile(
    r"(?:.*\.)?(?:token_embd|embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|embeddings)\.weight"
)
#: Tables of which a token has a row, and which never are the output.
_ROWS: Final = re.compile(
    r"(?:.*\.)?(?:per_layer_token_embd|position_embd|token_types|embed_tokens_per_layer|wpe|position_embeddings"
    r"|token_type_embeddings)\.weight"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """How a model would be run: tokens of context (None for what is usual), and bytes a second of the memory."""

    context: int | None = None
    bandwidth: float = USUAL_BANDWIDTH


@dataclass(frozen=True, slots=True)
class RunMemory:
    """Bytes llama.cpp needs, by what they are for. The compute buffer is an estimate: the logits of one micro-batch.

    caches: by the type of keys and values. state: of recurrent layers, which each of them has in it.
    """

    weights: int
    context: int
    caches: Mapping[str, int]
    state: int
    compute: int

    @property
    def kv_cache(self) -> int:
        """Of F16, as llama.cpp has it where nobody says otherwise."""
        return self.caches["f16"]

    @property
    def total(self) -> int:
        """All of it, with a cache of F16."""
        return self.weights + self.kv_cache + self.compute

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "context": self.context,
            "weights": self.weights,
            "kv_cache_f16": self.kv_cache,
            "kv_cache": dict(self.caches),
            "recurrent_state": self.state,
            "compute_estimate": self.compute,
            "total": self.total,
        }


@dataclass(frozen=True, slots=True)
class SpeedBound:
    """What must be read of a model's weights for each token, by one sequence that generates.

    weights: bytes of all but what is looked up by the row, and of experts only of those that a token is sent to.
    experts: how many of how many that are; (0, 0) where there are none. context, cache: bytes of a full cache of F16
    at that context. bandwidth: bytes a second.
    """

    weights: int
    experts: tuple[int, int]
    context: int
    cache: int
    bandwidth: float

    @property
    def tokens_per_second(self) -> float:
        """A bound, and no forecast: reading the weights alone takes so long."""
        return self.bandwidth / self.weights if self.weights else 0.0

    @property
    def tokens_per_second_full(self) -> float:
        """The same at the end of the context, when all keys and values are read, too."""
        return self.bandwidth / (self.weights + self.cache) if self.weights else 0.0

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "weight_bytes_per_token": self.weights,
            "experts_used": self.experts[0],
            "experts": self.experts[1],
            "bandwidth": self.bandwidth,
            "tokens_per_second_at_most": round(self.tokens_per_second, 3),
            "context": self.context,
            "cache_bytes_per_token": self.cache,
            "tokens_per_second_at_most_full": round(self.tokens_per_second_full, 3),
        }


@dataclass(frozen=True, slots=True)
class Running:
    """What it takes to run a model: memory at one context or several, and the bound on its speed, if it generates."""

    memory: tuple[RunMemory, ...]
    speed: SpeedBound | None


def running(checkpoint: Checkpoint[Tensor], placed: Sequence[Placed], weights: int, asked: Asked) -> Running | None:
    """None where the hyperparameters are not in the file. weights: bytes of all tensors."""
    metadata, architecture = metadata_of(checkpoint)
    caches, trained = caches_of(metadata, architecture), number(metadata, f"{architecture}.context_length")
    vocabulary = vocabulary_of(checkpoint)
    if caches is None or not vocabulary or not 0 < trained < 1 << 40:
        return None
    compute = 4 * MICRO_BATCH * vocabulary
    state = sum(cache.state for cache in caches)
    contexts = sorted({min(_USUAL_CONTEXT, trained), trained}) if asked.context is None else [asked.context]
    memory = tuple(RunMemory(weights, n, cache_bytes(caches, n), state, compute) for n in contexts)
    return Running(memory, _speed(placed, metadata, architecture, memory[0], asked.bandwidth))


def _speed(
    placed: Sequence[Placed], metadata: Mapping[str, Typed], architecture: str, memory: RunMemory, bandwidth: float
) -> SpeedBound | None:
    if architecture in WITHOUT:
        return None
    weights, experts = bytes_for_a_token(placed, metadata, architecture)
    return SpeedBound(weights, experts, memory.context, memory.kv_cache, bandwidth)


def bytes_for_a_token(
    placed: Sequence[Placed], metadata: Mapping[str, Typed], architecture: str
) -> tuple[int, tuple[int, int]]:
    """Bytes of weights that one token reads, and how many of how many experts are among them (see `SpeedBound`)."""
    used, count = (number(metadata, f"{architecture}.{key}") for key in ("expert_used_count", "expert_count"))
    experts = (used, count) if 0 < used <= count else (0, 0)
    layers = number(metadata, f"{architecture}.block_count") - number(metadata, f"{architecture}.nextn_predict_layers")
    return _read_for_a_token([one for one in placed if one.layer is None or one.layer < layers], experts), experts


def _read_for_a_token(placed: Sequence[Placed], experts: tuple[int, int]) -> int:
    """Bytes of weights; of an embedding only a row is read, unless it stands for the output."""
    has_output = any(_OUTPUT.fullmatch(one.tensor.name) for one in placed)
    used, count = experts
    total = 0
    for one in placed:
        name, nbytes = one.tensor.name, one.tensor.nbytes
        if _ROWS.fullmatch(name) or (has_output and _EMBEDDING.fullmatch(name)):
            continue
        total += nbytes * used // count if count and _is_of_experts(one.tensor, count) else nbytes
    return total


def _is_of_experts(tensor: Tensor, count: int) -> bool:
    """Whether it is of one expert, or a stack of all of them, whatever a family calls it."""
    shape = tensor.shape
    return bool(_EXPERT.search(tensor.name)) or (len(shape) == 3 and shape[0] == count and shape[1] > 1)


def vocabulary_of(checkpoint: Checkpoint[Tensor]) -> int | None:
    """How many tokens there are logits of."""
    if checkpoint.naming is Naming.HF:
        return first_count(flat_config(checkpoint.config), "vocab_size")
    named = (tensor for tensor in checkpoint.tensors if tensor.name == "token_embd.weight" and tensor.shape)
    return next((tensor.shape[0] for tensor in named), None)
