"""Scales of whole tensors in GGUF files: which tensors can have one, how to take it out of a weight and put it back.

An F32 tensor `blk.0.attn_q.scale` [1], or [experts] for a stack, is by what llama.cpp multiplies the product with
`blk.0.attn_q.weight`: its NVFP4 blocks have no place for the scale of the whole tensor that NVFP4 has elsewhere.
Source: llama.cpp's src/llama-model.cpp (what is loaded), src/llama-graph.cpp and src/models (what is applied),
conversion/base.py (what is written).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from requant.encodings import BLOCKS, DENSE, F32, Blocks, Dense, Encoding
from requant.encodings.companions import Companioned
from requant.encodings.scaled import Scaled
from requant.encodings.small_floats import takes
from requant.errors import PlanError
from requant.expressions import Stored
from requant.ir import Checkpoint, Tensor
from requant.losses import Loss
from requant.plan import Move
from requant.sources import Memory, read

NVFP4: Final = BLOCKS["NVFP4"]
_ATTENTION: Final = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output")
_MLP: Final = ("ffn_gate", "ffn_up", "ffn_down")
_EXPERTS: Final = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
#: ggml architecture -> the layers of a block whose scales llama.cpp multiplies by. Those of others are loaded and never
#: used: a model would run, and be wrong.
_APPLIED: Final[Mapping[str, tuple[str, ...]]] = {
    "llama": (*_ATTENTION, *_MLP, *_EXPERTS),
    "qwen2": _ATTENTION,
    "qwen3": (*_ATTENTION, *_MLP),
    "qwen3moe": (*_ATTENTION, *_EXPERTS),
    "gemma3": _ATTENTION,
    "phi3": _ATTENTION,
    "gpt2": _ATTENTION,
    "gpt-oss": _ATTENTION,
    "bert": _ATTENTION,
}
_LAYER: Final = re.compile(r"blk\.\d+\.(\w+)\.weight", re.ASCII)
_OUTPUT: Final = "output.weight"


def applies(architecture: str, weight: str, names: Collection[str]) -> bool:
    """Whether llama.cpp multiplies by the companion of this weight. names: of all tensors.

    It would multiply the bias of a feed-forward layer, too, and refuses to.
    """
    layers = _APPLIED.get(architecture, ())
    if weight == _OUTPUT:
        return bool(layers) and architecture != "bert"
    match = _LAYER.fullmatch(weight)
    if match is None or match[1] not in layers:
        return False
    return match[1] not in _MLP or weight.removesuffix("weight") + "bias" not in names


def bare(move: Move, architecture: str, names: Collection[str]) -> Move | None:
    """The same weight without the scales of whole tensors, if a GGUF can have these as its companion; else None."""
    if not applies(architecture, move.name, names) or not _has_own_scales(move):
        return None
    if not all(takes(_alone(tensor).encoding, NVFP4) for tensor in move.inputs):
        return None
    return replace(move, values=move.values.mapped(_alone))


def _has_own_scales(move: Move) -> bool:
    """Whether every matrix has the rows of one tensor, as they are, and that one a scale for all of it."""
    if not all(isinstance(tensor.encoding, Scaled) and tensor.encoding.whole for tensor in move.inputs):
        return False
    matrices = move.shape[0] if len(move.shape) > 2 else 1
    height = move.values.rows // max(matrices, 1)
    origins = [move.values.origin(matrix * height) for matrix in range(matrices)]
    owners = move.inputs * matrices if len(move.inputs) == 1 else move.inputs
    return len(owners) == matrices and all(
        origin is not None and origin[0] is owner for origin, owner in zip(origins, owners, strict=True)
    )


def _alone(tensor: Tensor) -> Tensor:
    """The same without the scale of the whole tensor."""
    assert isinstance(tensor.encoding, Scaled)
    sources = {part: source for part, source in tensor.sources.items() if part != "whole"}
    return Tensor(tensor.name, tensor.shape, replace(tensor.encoding, whole=""), sources)


@dataclass(frozen=True, slots=True)
class Divided:
    """Tensors of a GGUF with their companions among them. carried: stored arrays that are not lost, though unnamed."""

    moves: list[Move]
    encodings: list[Encoding]
    carried: frozenset[str]


def divided(
    moves: Sequence[Move], alone: Sequence[Move | None], encodings: Sequence[Encoding], tensors: Mapping[str, Tensor]
) -> Divided:
    """What becomes NVFP4 goes without its scales (`alone`: what `bare` says of each) and is followed by companions.

    tensors: all of the checkpoint.
    """
    made, kinds, carried = [], [], set[str]()
    for move, other, encoding in zip(moves, alone, encodings, strict=True):
        scales: list[Move] = []
        if other is not None and encoding == NVFP4:
            inputs = [_input_scale(tensor, tensors) for tensor in move.inputs]
            carried |= {tensor.name for tensor in inputs if tensor is not None}
            scales = [*_companion(move, "scale", _whole(move)), *_companion(move, "input_scale", inputs)]
        made += [other if other is not None and encoding == NVFP4 else move, *scales]
        kinds += [encoding, *[F32] * len(scales)]
    return Divided(made, kinds, frozenset(carried))


def _companion(move: Move, ending: str, scales: Sequence[Tensor | None]) -> list[Move]:
    """One tensor of the scales of a weight, or of each matrix of a stack; nothing if all are 1, as None is.

    compressed-tensors divides by its scales: what is stored is the inverse, rounded to F32. Scales are read here, and
    handed on in double precision where they will be rounded, so that the plan says so.
    """
    wholes, rounded = [], False
    for tensor, scale in zip(move.inputs, scales, strict=True):
        whole = 1.0 if scale is None else float(read(scale.sources["data"]).view("<f4")[0])
        if scale is not None and (not np.isfinite(whole) or whole == 0):
            raise PlanError(f"{scale.name!r} is {whole}, which is no scale", hint="the model is damaged")
        if isinstance(tensor.encoding, Scaled) and tensor.encoding.whole == "divides":
            whole = 1 / whole
            rounded |= float(np.float32(whole)) != whole
        wholes.append(whole)
    if len(move.shape) > 2 and len(wholes) == 1:
        wholes *= move.shape[0]
    if all(whole == 1 for whole in wholes):
        return []
    name = next(scale.name for scale in scales if scale is not None)
    data = Memory(np.array(wholes, "<f8" if rounded else "<f4").tobytes())
    source = Tensor(name, (len(wholes),), DENSE["F64"] if rounded else F32, {"data": data})
    return [Move(move.name.removesuffix("weight") + ending, Stored(source))]


def _whole(move: Move) -> list[Tensor]:
    """The scale of the whole tensor of each input, as a tensor."""
    found = []
    for tensor in move.inputs:
        assert isinstance(tensor.encoding, Scaled)
        name = tensor.encoding.stored_names(tensor.name)["whole"]
        found.append(Tensor(name, (1,), F32, {"data": tensor.sources["whole"]}))
    return found


def _input_scale(tensor: Tensor, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The scale of the activations of a weight: llama.cpp's converter carries it, too."""
    assert isinstance(tensor.encoding, Scaled)
    ending = "input_global_scale" if tensor.encoding.kind == "packed" else "input_scale"
    scale = tensors.get(tensor.name.removesuffix("weight") + ending)
    return scale if scale is not None and scale.encoding == F32 and scale.nbytes == 4 else None


def folded(checkpoint: Checkpoint[Tensor]) -> tuple[Checkpoint[Tensor], tuple[Loss, ...]]:
    """A GGUF whose weights have their companions inside, for formats that have none; what is dropped is told."""
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    losses = []
    for name, tensor in list(tensors.items()):
        weight = tensors.get(name.removesuffix("scale") + "weight")
        module = name.removesuffix(".scale").removesuffix(".input_scale")
        if name == f"{module}.scale" and weight is not None and applies(checkpoint.architecture, weight.name, tensors):
            tensors[weight.name] = _with(weight, tensor)
            del tensors[name]
        elif name == f"{module}.input_scale" and f"{module}.weight" in tensors:
            del tensors[name]
            losses.append(Loss.of_tensor(tensor, "only what runs the quantized model needs it"))
    return replace(checkpoint, tensors=tuple(tensors.values())), tuple(losses)


def _with(weight: Tensor, scale: Tensor) -> Tensor:
    assert isinstance(weight.encoding, Blocks | Dense)
    encoding = Companioned(weight.encoding)
    wanted = encoding.parts(weight.shape)["whole"].shape
    if scale.encoding != F32 or scale.shape != wanted:
        raise PlanError(
            f"{scale.name!r} is {scale.encoding.label}{list(scale.shape)}; the scale of {weight.name!r} is "
            f"F32{list(wanted)}",
            hint="the file is damaged; llama.cpp would not load it either",
        )
    sources = {"data": weight.sources["data"], "whole": scale.sources["data"]}
    return Tensor(weight.name, weight.shape, encoding, sources)


def multiplied_output(
    moves: Sequence[Move], encodings: Sequence[Encoding]
) -> tuple[list[Move], list[Encoding], list[Loss]]:
    """Moves of one GGUF to another and what they become, with an output that is NVFP4 no more without its companions.

    llama.cpp knows companions of weights of any type, but of the output only if it is NVFP4: else its scale is
    multiplied in.
    """
    named = {move.name: move for move in moves}
    dropped = [name for name in ("output.scale", "output.input_scale") if name in named]
    became = {move.name: encoding for move, encoding in zip(moves, encodings, strict=True)}
    if not dropped or became.get(_OUTPUT, NVFP4) == NVFP4:
        return list(moves), list(encodings), []
    output = named[_OUTPUT]
    losses = [Loss.of_tensor(named[name].inputs[0], "llama.cpp has it beside NVFP4 only") for name in dropped]
    if "output.scale" in named:
        whole = _with(output.inputs[0], named["output.scale"].inputs[0])
        output = replace(output, values=output.values.mapped(lambda _: whole))
        losses[0] = replace(losses[0], detail=f"multiplied into {_OUTPUT}: {losses[0].detail}")
    kept = [(output if move.name == _OUTPUT else move, became[move.name]) for move in moves if move.name not in dropped]
    return [move for move, _ in kept], [encoding for _, encoding in kept], losses
