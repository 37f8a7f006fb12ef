"""Rotated weights: turned back where the rotation is known and orthogonal, else refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from requant.encodings import Dense
from requant.encodings.gptq import Gptq
from requant.encodings.scaled import Scaled
from requant.encodings.turned import Turned
from requant.errors import UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json

_HINT = "dequantize the model with the library that rotated it and save it; or convert the original model"


def turn(pool: Pool, name: str, block: int, said: str) -> None:
    """Say that a folded weight is turned in blocks (0: in one) along its inputs; `said`: what says so."""
    tensor = pool.get(name)
    assert tensor is not None
    size = block or tensor.shape[-1]
    if not isinstance(tensor.encoding, Gptq | Scaled) or size & (size - 1) or tensor.shape[-1] % size:
        raise UnsupportedError(
            f"{pool.path}: {name!r} ({tensor.encoding.label}, {tensor.shape[-1]} inputs) is rotated, as {said} says, "
            f"by a matrix of {size} that is not known here",
            hint=_HINT,
        )
    pool.fold(replace(tensor, encoding=Turned(tensor.encoding, size)), [name])


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """auto-round's `rotation_config`: every quantized layer, where it is the plain Hadamard matrix in blocks.

    That is what its per-layer transform does to MXFP4 and NVFP4; the rotation of the residual stream (`inplace`), and
    matrices with random signs, are refused.
    """
    rotation = config.get("rotation_config")
    if not rotation or str(config.get("quant_method", "")).lower() == "compressed-tensors":
        return
    for array in pool.names():
        if array.endswith(".hadamard_matrix"):
            raise UnsupportedError(f"{pool.path}: {array!r} rotates the inputs of each layer", hint=_HINT)
    block = rotation.get("block_size") if isinstance(rotation, dict) else None
    if not isinstance(rotation, dict) or not isinstance(block, int) or block < 2 or not _is_plain(rotation, config):
        raise UnsupportedError(
            f"{pool.path}: its weights are rotated (rotation_config of auto-round: {_brief(rotation)})", hint=_HINT
        )
    for name in pool.names():
        tensor = pool.get(name)
        if tensor is not None and not isinstance(tensor.encoding, Dense):
            turn(pool, name, block, "rotation_config of auto-round")


def _is_plain(rotation: Mapping[str, Json], config: Mapping[str, Json]) -> bool:
    """Whether it is the deterministic matrix, applied to each layer by itself (auto-round's `dispatcher.py`)."""
    known = {"algorithm", "backend", "block_size", "hadamard_type", "layerwise", "fuse_online_to_weight"}
    known |= {"allow_online_rotation", "random_seed"}
    data_type = str(config.get("data_type", "")).lower()
    return (
        set(rotation) <= known
        and rotation.get("algorithm", "hadamard") == "hadamard"
        and rotation.get("hadamard_type", "hadamard") == "hadamard"
        and rotation.get("backend", "auto") in ("auto", "transform")
        and not rotation.get("fuse_online_to_weight")
        and not rotation.get("random_seed")
        and data_type.startswith(("mx_fp", "nv_fp"))
    )


def _brief(rotation: Json) -> str:
    if not isinstance(rotation, dict):
        return repr(rotation)[:60]
    return ", ".join(
        f"{key} {rotation[key]!r}" for key in ("hadamard_type", "backend", "block_size") if key in rotation
    )
