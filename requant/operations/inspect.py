"""What a checkpoint consists of: types, bits per weight, roles, layers, and the memory it needs to run."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from requant.encodings import Blocks, Dense
from requant.encodings.labels import type_name
from requant.file_types import title
from requant.inspection.origin import Origin, origin_of
from requant.ir import PROJECTOR, Checkpoint, Json, Naming, Tensor, flat_config
from requant.operations.placed import Placed, place_in_projector, place_of
from requant.operations.running import Asked, RunMemory, Running, running
from requant.sources import FileSlice

#: A mask of attention, or what it is filled with (GPT-2); a bias has another shape.
_MASK: Final = re.compile(r"(?:.*\.)?(?:attn|attention|self_attn)\.(?:bias|masked_bias)")
#: Constants by their names.
_CONSTANT: Final = re.compile(r"(?:.*[._])?(?:position_ids|token_type_ids|inv_freq|num_batches_tracked)")
_EMBEDDING: Final = re.compile(r"(?:.*\.)?(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in)\.weight")


@dataclass(frozen=True, slots=True)
class Share:
    """What a group of tensors (of one type, role or layer) adds up to."""

    tensors: int
    weights: int
    nbytes: int
    types: Mapping[str, int]

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of one number, everything that goes with it included."""
        return 8 * self.nbytes / self.weights if self.weights else 0.0

    def to_json(self) -> Json:
        """As printed by `--json`."""
        return {
            "tensors": self.tensors,
            "parameters": self.weights,
            "bytes": self.nbytes,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "types": dict(self.types),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The numbers `requant inspect` prints."""

    format: str
    checkpoint: Checkpoint[Tensor]
    placed: tuple[Placed, ...]
    file_bytes: int
    total: Share
    by_type: Mapping[str, Share]
    by_role: Mapping[str, Share]
    by_layer: Mapping[int, Share]
    exl2_widths: Mapping[int, int]
    code_widths: Mapping[int, int]
    origin: Origin
    tied_output: bool
    running: Running | None
    named: str = ""

    @property
    def title(self) -> str:
        """What it is called: as the user named it, where that is no path (a path would lose a slash of `s3://…`)."""
        return self.named or str(self.checkpoint.path)

    @property
    def memory(self) -> tuple[RunMemory, ...]:
        """What it takes at each context; nothing where the hyperparameters are not in the file."""
        return self.running.memory if self.running else ()

    @property
    def file_type(self) -> str | None:
        """What a GGUF says it was quantized to, as llama.cpp words it."""
        typed = self.checkpoint.metadata.get("general.file_type")
        return title(typed.value) if typed is not None and isinstance(typed.value, int) else None

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`, but for the tensors, which are chosen and ordered by the user."""
        return {
            "path": self.title,
            "format": self.format,
            "naming": self.checkpoint.naming.value,
            "architecture": self.checkpoint.architecture,
            "file_type": self.file_type,
            "parameters": self.total.weights,
            "tensor_bytes": self.total.nbytes,
            "file_bytes": self.file_bytes,
            "bits_per_weight": round(self.total.bits_per_weight, 4),
            "tied_output": self.tied_output,
            "notices": list(self.checkpoint.notices),
            "types": {name: share.to_json() for name, share in self.by_type.items()},
            "roles": {name: share.to_json() for name, share in self.by_role.items()},
            "layers": {str(number): share.to_json() for number, share in self.by_layer.items()},
            "exl2_weights_by_bits": {str(bits): weights for bits, weights in self.exl2_widths.items()},
            "weights_by_bits": {str(bits): weights for bits, weights in self.code_widths.items()},
            "origin": self.origin.to_json(),
            "memory": [memory.to_json() for memory in self.memory],
            "speed": self.running.speed.to_json() if self.running and self.running.speed else None,
        }


def report(checkpoint: Checkpoint[Tensor], format_name: str, asked: Asked | None = None) -> Report:
    """Count; no tensor byte is read. asked: how the model would be run."""
    types: dict[str, list[Tensor]] = {}
    roles: dict[str, list[Tensor]] = {}
    layers: dict[int, list[Tensor]] = {}
    projector = checkpoint.naming is Naming.GGML and checkpoint.architecture == PROJECTOR
    place = place_in_projector if projector else place_of
    placed = tuple(Placed(tensor, *place(tensor.name)) for tensor in checkpoint.tensors)
    for one in placed:
        tensor, layer, role = one.tensor, one.layer, one.role
        types.setdefault(type_name(tensor.encoding), []).append(tensor)
        roles.setdefault(role, []).append(tensor)
        if layer is not None:
            layers.setdefault(layer, []).append(tensor)
    copies = _copies(checkpoint)
    total = share_of(checkpoint.tensors, copies)
    coded = [tensor for tensor in checkpoint.tensors if not isinstance(tensor.encoding, Dense | Blocks)]
    by_type = {name: share_of(group, copies) for name, group in types.items()}
    return Report(
        format_name,
        checkpoint,
        placed,
        _file_bytes(checkpoint),
        total,
        dict(sorted(by_type.items(), key=lambda item: -item[1].nbytes)),
        {name: share_of(group, copies) for name, group in roles.items()},
        {number: share_of(layers[number], copies) for number in sorted(layers)},
        _code_widths([tensor for tensor in coded if type_name(tensor.encoding) == "EXL2"]),
        _code_widths(coded),
        origin_of(checkpoint),
        not projector
        and not any(re.fullmatch(r"output\.weight|(.*\.)?lm_head\.(.*\.)?weight", t.name) for t in checkpoint.tensors),
        running(checkpoint, placed, total.nbytes, asked or Asked()),
    )


def share_of(tensors: Iterable[Tensor], copies: Collection[str] = ()) -> Share:
    """What these tensors add up to; buffers and `copies` of others take bytes and are no parameters."""
    count = weights = nbytes = 0
    types: dict[str, int] = {}
    for tensor in tensors:
        count, nbytes = count + 1, nbytes + tensor.nbytes
        weights += 0 if tensor.name in copies or _is_buffer(tensor) else prod(tensor.shape)
        name = type_name(tensor.encoding)
        types[name] = types.get(name, 0) + 1
    return Share(count, weights, nbytes, types)


def _is_buffer(tensor: Tensor) -> bool:
    """Whether it is one of the constants that models of old store: masks of attention, positions, frequencies."""
    if _MASK.fullmatch(tensor.name):
        return tensor.shape in ((), (1,)) or (len(tensor.shape) == 4 and tensor.shape[:2] == (1, 1))
    return bool(_CONSTANT.fullmatch(tensor.name))


def _copies(checkpoint: Checkpoint[Tensor]) -> frozenset[str]:
    """The head's name, where the model has the embedding for a head and both are stored; a quantized one is its own."""
    config = flat_config(checkpoint.config)
    heads = [
        tensor.name
        for tensor in checkpoint.tensors
        if isinstance(tensor.encoding, Dense) and re.fullmatch(r"(.*\.)?lm_head\.weight", tensor.name)
    ]
    embedding = any(_EMBEDDING.fullmatch(tensor.name) for tensor in checkpoint.tensors)
    return frozenset(heads) if embedding and config.get("tie_word_embeddings") is True else frozenset()


def _code_widths(tensors: Sequence[Tensor]) -> Mapping[int, int]:
    """How many weights of quantized layers have codes of each width, the widest first; scales are not counted."""
    widths: dict[int, int] = {}
    if not tensors:
        return widths
    from requant.encodings.exactness import integers_of
    from requant.encodings.exl2 import Exl2

    for tensor in tensors:
        if isinstance(tensor.encoding, Exl2):
            own = tensor.encoding.weights_by_bits(tensor.shape)
        else:
            integers = integers_of(tensor.encoding)
            own = {integers.bits: prod(tensor.shape)} if integers else {}
        for bits, weights in own.items():
            widths[bits] = widths.get(bits, 0) + weights
    return dict(sorted(widths.items(), reverse=True))


def _file_bytes(checkpoint: Checkpoint[Tensor]) -> int:
    paths: set[Path] = set()
    for tensor in checkpoint.tensors:
        paths.update(source.path for source in tensor.sources.values() if isinstance(source, FileSlice))
    try:
        return sum(path.stat().st_size for path in paths) or checkpoint.path.stat().st_size
    except FileNotFoundError:
        from requant.passes.graft import is_stand_in

        if not all(map(is_stand_in, checkpoint.tensors)):
            raise
        return sum(tensor.nbytes for tensor in checkpoint.tensors)  # what would be written of it
