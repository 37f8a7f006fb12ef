"""The integers in ggml's blocks of 32, and its 4-bit floats: what repacks carry over.

Source: the block structures of ggml/src/ggml-common.h. All scales and offsets are F16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes
from requant.errors import UnsupportedError
from requant.kernels_cpu.block_nibbles import join_nibbles, split_nibbles
from requant.kernels_cpu.dense import small_float_table
from requant.kernels_cpu.groups import Regrouped, regrouped
from requant.kernels_cpu.scaled_codec import store_scales

Blocks = NDArray[np.uint8]


def unpack_q4_0(blocks: Blocks) -> Codes:
    """[rows, blocks, 18]: d, nibbles; (code - 8) * d."""
    return _symmetric(blocks, split_nibbles(blocks, 2), 8)


def pack_q4_0(codes: Codes, out: Blocks) -> None:
    """The inverse."""
    numbers, scales, _, _ = _fitted(codes, 4, True, out)
    out[..., :2] = _halves(scales)
    join_nibbles(numbers, out, 2)


def unpack_q5_0(blocks: Blocks) -> Codes:
    """[rows, blocks, 22]: d, 32 high bits, nibbles; (code - 16) * d."""
    return _symmetric(blocks, split_nibbles(blocks, 6) | _bits(blocks[..., 2:6]) << 4, 16)


def pack_q5_0(codes: Codes, out: Blocks) -> None:
    """The inverse."""
    numbers, scales, _, _ = _fitted(codes, 5, True, out)
    out[..., :2] = _halves(scales)
    out[..., 2:6] = _bit_bytes(numbers >> 4)
    join_nibbles(numbers & 15, out, 6)


def unpack_q8_0(blocks: Blocks) -> Codes:
    """[rows, blocks, 34]: d, signed codes; code * d."""
    return _symmetric(blocks, blocks[..., 2:] ^ 128, 128)


def pack_q8_0(codes: Codes, out: Blocks) -> None:
    """The inverse; a code of -128, which ggml itself never writes, is as good as any other to its readers."""
    numbers, scales, _, _ = _fitted(codes, 8, True, out)
    out[..., :2] = _halves(scales)
    out[..., 2:] = numbers ^ 128


def unpack_q4_1(blocks: Blocks) -> Codes:
    """[rows, blocks, 20]: d, m, nibbles; code * d + m."""
    return _offset(blocks, split_nibbles(blocks, 4))


def pack_q4_1(codes: Codes, out: Blocks) -> None:
    """The inverse; zeros become -zero * d, rounded."""
    numbers, scales, zeros, offsets = _fitted(codes, 4, False, out)
    out[..., :2] = _halves(scales)
    out[..., 2:4] = _halves(_offsets(scales, zeros, offsets))
    join_nibbles(numbers, out, 4)


def unpack_q5_1(blocks: Blocks) -> Codes:
    """[rows, blocks, 24]: d, m, 32 high bits, nibbles; code * d + m."""
    return _offset(blocks, split_nibbles(blocks, 8) | _bits(blocks[..., 4:8]) << 4)


def pack_q5_1(codes: Codes, out: Blocks) -> None:
    """The inverse; zeros become -zero * d, rounded."""
    numbers, scales, zeros, offsets = _fitted(codes, 5, False, out)
    out[..., :2] = _halves(scales)
    out[..., 2:4] = _halves(_offsets(scales, zeros, offsets))
    out[..., 4:8] = _bit_bytes(numbers >> 4)
    join_nibbles(numbers & 15, out, 8)


def unpack_mxfp4(blocks: Blocks) -> Codes:
    """[rows, blocks, 17]: an exponent, nibbles. ggml's halves and doubles cancel out."""
    scales = small_float_table("F8_E8M0")[blocks[..., 0]]
    return Codes(split_nibbles(blocks, 1).reshape(len(blocks), -1), scales, np.empty((len(blocks), 0), np.float32))


def pack_mxfp4(codes: Codes, out: Blocks) -> None:
    """The inverse."""
    store_scales(codes.scales, "F8_E8M0", out[..., 0])
    join_nibbles(codes.codes.reshape(*out.shape[:2], 32), out, 1)


def unpack_nvfp4(blocks: Blocks) -> Codes:
    """[rows, blocks, 36]: four scales, nibbles of 16 values at a time. Signs of scales mean nothing, and 0x7F is 0."""
    stored = blocks[..., :4]
    if (stored == 0xFF).any():
        raise UnsupportedError(
            "an NVFP4 block has the scale 0xFF, which is 480 to ggml and no number elsewhere",
            hint="choose another type",
        )
    scales = small_float_table("F8_E4M3")[np.where(stored == 0x7F, 0, stored & 127)].reshape(len(blocks), -1)
    nibbles = blocks[..., 4:].reshape(*blocks.shape[:2], 4, 8)
    codes = np.concatenate([nibbles & 15, nibbles >> 4], -1).reshape(len(blocks), -1)
    return Codes(codes, scales, np.empty((len(blocks), 0), np.float32))


def pack_nvfp4(codes: Codes, out: Blocks) -> None:
    """The inverse."""
    shape = out.shape[:2]
    if not (codes.scales >= 0).all():
        raise UnsupportedError(
            "NVFP4 of ggml has no scales that are negative or no numbers", hint="choose another type"
        )
    store_scales(np.abs(codes.scales).reshape(*shape, 4), "F8_E4M3", out[..., :4])  # a zero may have a sign
    groups = codes.codes.reshape(*shape, 4, 2, 8)
    out[..., 4:] = (groups[..., 0, :] | groups[..., 1, :] << 4).reshape(*shape, 32)


#: Block type -> (blocks to codes, codes to blocks); blocks are uint8 [rows, blocks, bytes].
CODES: Final[Mapping[str, tuple[Callable[[Blocks], Codes], Callable[[Codes, Blocks], None]]]] = {
    "Q4_0": (unpack_q4_0, pack_q4_0),
    "Q4_1": (unpack_q4_1, pack_q4_1),
    "Q5_0": (unpack_q5_0, pack_q5_0),
    "Q5_1": (unpack_q5_1, pack_q5_1),
    "Q8_0": (unpack_q8_0, pack_q8_0),
    "MXFP4": (unpack_mxfp4, pack_mxfp4),
    "NVFP4": (unpack_nvfp4, pack_nvfp4),
}


def _symmetric(blocks: Blocks, codes: NDArray[Any], zero: int) -> Codes:
    scales = _half_values(blocks[..., :2])
    return Codes(codes.reshape(len(blocks), -1), scales, np.full(scales.shape, zero, np.float32))


def _offset(blocks: Blocks, codes: NDArray[Any]) -> Codes:
    scales, offsets = _half_values(blocks[..., :2]), _half_values(blocks[..., 2:4])
    return Codes(codes.reshape(len(blocks), -1), scales, np.empty((len(blocks), 0), np.float32), offsets=offsets)


def _fitted(codes: Codes, bits: int, symmetric: bool, out: Blocks) -> Regrouped:
    """Codes as [rows, blocks, 32], with a scale and a zero or offset for each block."""
    found = regrouped(codes, bits, symmetric, 32, out.shape[1])
    return found._replace(codes=np.ascontiguousarray(found.codes).reshape(*out.shape[:2], 32))


def _offsets(scales: Any, zeros: Any, offsets: Any) -> NDArray[np.float32]:
    made: NDArray[np.float32] = -zeros * scales if offsets is None else offsets
    if (np.abs(made) > 65504).any():
        raise UnsupportedError("an offset -zero * scale is beyond the range of F16", hint="choose another type")
    return made


def _halves(numbers: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[rows, blocks] as [rows, blocks, 2] bytes."""
    return np.ascontiguousarray(numbers, "<f2").view(np.uint8).reshape(*numbers.shape, 2)


def _half_values(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(stored).view("<f2")[..., 0].astype(np.float32)


def _bits(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.unpackbits(np.ascontiguousarray(stored), axis=-1, bitorder="little")


def _bit_bytes(bits: NDArray[Any]) -> NDArray[np.uint8]:
    return np.packbits(bits, axis=-1, bitorder="little")
