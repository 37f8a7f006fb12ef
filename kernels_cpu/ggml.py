"""The block types of ggml: which kernel encodes and decodes each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, Correction, Parts, Values
from requant.encodings import Blocks
from requant.errors import UnsupportedError
from requant.kernels_cpu.ggml_grids import GridDecoder, GridEncoder
from requant.kernels_cpu.kept import Kept
from requant.kernels_cpu.unweighted import Unweighted

Kernel = Callable[..., None]

#: (values, out): float32 [blocks * values] to uint8 [blocks * bytes].
ENCODERS: Final[Mapping[str, Kernel]] = {
    "Q4_0": Kept("ggml_legacy", "encode_q4_0"),
    "Q4_1": Kept("ggml_legacy", "encode_q4_1"),
    "Q5_0": Kept("ggml_legacy", "encode_q5_0"),
    "Q5_1": Kept("ggml_legacy", "encode_q5_1"),
    "Q8_0": Kept("ggml_legacy", "encode_q8_0"),
    "Q2_K": Kept("ggml_k", "encode_q2_k"),
    "Q3_K": Kept("ggml_k", "encode_q3_k"),
    "Q4_K": Kept("ggml_k", "encode_q4_k"),
    "Q5_K": Kept("ggml_k", "encode_q5_k"),
    "Q6_K": Kept("ggml_k", "encode_q6_k"),
    "IQ1_M": Unweighted(GridEncoder(Kept("ggml_iq1", "encode_iq1_m"), "IQ1_S")),
    "IQ2_S": Unweighted(GridEncoder(Kept("ggml_iq2", "encode_iq2_s"), "IQ2_S")),
    "IQ3_XXS": Unweighted(GridEncoder(Kept("ggml_iq3", "encode_iq3_xxs"), "IQ3_XXS")),
    "IQ3_S": Unweighted(GridEncoder(Kept("ggml_iq3", "encode_iq3_s"), "IQ3_S")),
    "IQ4_NL": Unweighted(Kept("ggml_iq4", "encode_iq4_nl")),
    "IQ4_XS": Unweighted(Kept("ggml_iq4", "encode_iq4_xs")),
    "TQ1_0": Kept("ggml_ternary", "encode_tq1_0"),
    "TQ2_0": Kept("ggml_ternary", "encode_tq2_0"),
    "MXFP4": Kept("ggml_fp4", "encode_mxfp4"),
    "NVFP4": Kept("ggml_fp4", "encode_nvfp4"),
    "Q1_0": Kept("ggml_ternary", "encode_q1_0"),
    "Q2_0": Kept("ggml_ternary", "encode_q2_0"),
}

#: (values, importance, columns, out): as above, with the importance of one row [columns] or of every row
#: [rows * columns] beside it. Types that are not here take no notice of an importance, as in ggml.
WEIGHTED: Final[Mapping[str, Kernel]] = {
    "Q4_0": Kept("ggml_legacy_importance", "encode_q4_0_weighted"),
    "Q4_1": Kept("ggml_legacy_importance", "encode_q4_1_weighted"),
    "Q5_0": Kept("ggml_legacy_importance", "encode_q5_0_weighted"),
    "Q5_1": Kept("ggml_legacy_importance", "encode_q5_1_weighted"),
    "Q2_K": Kept("ggml_importance", "encode_q2_k_weighted"),
    "Q3_K": Kept("ggml_importance", "encode_q3_k_weighted"),
    "Q4_K": Kept("ggml_importance", "encode_q4_k_weighted"),
    "Q5_K": Kept("ggml_importance", "encode_q5_k_weighted"),
    "Q6_K": Kept("ggml_importance", "encode_q6_k_weighted"),
    "IQ1_S": GridEncoder(Kept("ggml_iq1", "encode_iq1_s"), "IQ1_S"),
    "IQ1_M": GridEncoder(Kept("ggml_iq1", "encode_iq1_m"), "IQ1_S"),
    "IQ2_XXS": GridEncoder(Kept("ggml_iq2", "encode_iq2_xxs"), "IQ2_XXS"),
    "IQ2_XS": GridEncoder(Kept("ggml_iq2", "encode_iq2_xs"), "IQ2_XS"),
    "IQ2_S": GridEncoder(Kept("ggml_iq2", "encode_iq2_s"), "IQ2_S"),
    "IQ3_XXS": GridEncoder(Kept("ggml_iq3", "encode_iq3_xxs"), "IQ3_XXS"),
    "IQ3_S": GridEncoder(Kept("ggml_iq3", "encode_iq3_s"), "IQ3_S"),
    "IQ4_NL": Kept("ggml_iq4", "encode_iq4_nl"),
    "IQ4_XS": Kept("ggml_iq4", "encode_iq4_xs"),
}

#: (blocks, out): uint8 [blocks * bytes] to float32 [blocks * values].
DECODERS: Final[Mapping[str, Kernel]] = {
    "Q4_0": Kept("ggml_decode", "decode_q4_0"),
    "Q4_1": Kept("ggml_decode", "decode_q4_1"),
    "Q5_0": Kept("ggml_decode", "decode_q5_0"),
    "Q5_1": Kept("ggml_decode", "decode_q5_1"),
    "Q8_0": Kept("ggml_decode", "decode_q8_0"),
    "Q2_K": Kept("ggml_decode", "decode_q2_k"),
    "Q3_K": Kept("ggml_decode", "decode_q3_k"),
    "Q4_K": Kept("ggml_decode", "decode_q4_k"),
    "Q5_K": Kept("ggml_decode", "decode_q5_k"),
    "Q6_K": Kept("ggml_decode", "decode_q6_k"),
    "IQ1_S": GridDecoder(Kept("ggml_iq_decode", "decode_iq1_s"), "IQ1_S"),
    "IQ1_M": GridDecoder(Kept("ggml_iq_decode", "decode_iq1_m"), "IQ1_S"),
    "IQ2_XXS": GridDecoder(Kept("ggml_iq_decode", "decode_iq2_xxs"), "IQ2_XXS"),
    "IQ2_XS": GridDecoder(Kept("ggml_iq_decode", "decode_iq2_xs"), "IQ2_XS"),
    "IQ2_S": GridDecoder(Kept("ggml_iq_decode", "decode_iq2_s"), "IQ2_S"),
    "IQ3_XXS": GridDecoder(Kept("ggml_iq_decode", "decode_iq3_xxs"), "IQ3_XXS"),
    "IQ3_S": GridDecoder(Kept("ggml_iq_decode", "decode_iq3_s"), "IQ3_S"),
    "IQ4_NL": Kept("ggml_iq4", "decode_iq4_nl"),
    "IQ4_XS": Kept("ggml_iq4", "decode_iq4_xs"),
    "TQ1_0": Kept("ggml_ternary", "decode_tq1_0"),
    "TQ2_0": Kept("ggml_ternary", "decode_tq2_0"),
    "MXFP4": Kept("ggml_fp4", "decode_mxfp4"),
    "NVFP4": Kept("ggml_fp4", "decode_nvfp4"),
    "Q1_0": Kept("ggml_ternary", "decode_q1_0"),
    "Q2_0": Kept("ggml_ternary", "decode_q2_0"),
}


@dataclass(frozen=True, slots=True)
class BlockCodec:
    """One block type."""

    encoding: Blocks

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """Blocks to values."""
        kernel = DECODERS.get(self.encoding.label)
        if kernel is None:
            raise UnsupportedError(f"there is no decoder for {self.encoding.label}")
        data, values = _flat(parts["data"], np.uint8), _flat(out, np.float32)
        self._check(values, data)
        kernel(data, values)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Values to the exact bytes of ggml's reference.

        Values must be finite. A type that ggml quantizes without looking at the importance does the same here.
        """
        label = self.encoding.label
        plain, weighted = ENCODERS.get(label), WEIGHTED.get(label)
        if plain is None and weighted is None:
            raise UnsupportedError(f"there is no encoder for {label}")
        numbers, data = _flat(values, np.float32), _flat(out["data"], np.uint8)
        self._check(numbers, data)
        if weighted is not None and importance is not None:
            weighted(numbers, _repeated(importance, values), values.shape[-1], data)
        elif plain is not None:
            plain(numbers, data)
        else:
            raise UnsupportedError(
                f"{label} cannot be encoded without an importance matrix", hint="pass --imatrix FILE"
            )

    def encode_corrected(self, values: Values, out: Parts, start: int, correction: Correction) -> None:
        """As `encode`, but columns after one make up for its error; scales are those that `encode` finds for what the
        weights of a block are then."""
        from requant.kernels_cpu.ggml_feedback import CODABLE, encode_corrected  # which few conversions need

        how, decode = CODABLE.get(self.encoding.label), DECODERS[self.encoding.label]
        if how is None:
            raise UnsupportedError(f"{self.encoding.label} takes no error feedback", hint="leave out --feedback")

        def blocks_of(block: Values, importance: Values) -> NDArray[np.uint8]:
            made = np.empty((len(block), self.encoding.nbytes), np.uint8)
            self.encode(block, {"data": made}, 0, importance)
            return made

        encode_corrected(values, correction, how, blocks_of, decode, self._blocks(out, len(values)))

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """The integers of some rows; raises `UnsupportedError` for types made of anything else."""
        return self._codes()[0](self._blocks(parts, rows))

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """Store integers."""
        self._codes()[1](codes, self._blocks(out, len(codes.codes)))

    def _codes(self) -> tuple[Callable[[NDArray[np.uint8]], Codes], Callable[[Codes, NDArray[np.uint8]], None]]:
        from requant.kernels_cpu.ggml_codes import CODES  # which few conversions need

        if self.encoding.label not in CODES:
            raise UnsupportedError(f"there are no integers with a scale of their own in {self.encoding.label}")
        return CODES[self.encoding.label]

    def _blocks(self, parts: Parts, rows: int) -> NDArray[np.uint8]:
        return _flat(parts["data"], np.uint8).reshape(rows, -1, self.encoding.nbytes)

    def _check(self, values: NDArray[np.float32], data: NDArray[np.uint8]) -> None:
        """Kernels check no bounds."""
        blocks, rest = divmod(values.size, self.encoding.values)
        if rest or data.size != blocks * self.encoding.nbytes:
            raise ValueError(f"{values.size} values are not {data.size} bytes of {self.encoding.label}")


def block_codec(encoding: Blocks) -> BlockCodec:
    """The codec of a block type."""
    return BlockCodec(encoding)


def _flat(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """The same memory in one dimension."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"kernels take contiguous {np.dtype(dtype)}, not {array.dtype} with strides {array.strides}")
    return array.reshape(-1)


def _repeated(importance: Values, values: Values) -> NDArray[np.float32]:
    """The importance as kernels take it; raises ValueError unless it is [columns] or [rows, columns]."""
    if importance.shape not in (values.shape[-1:], values.shape):
        raise ValueError(f"an importance of shape {importance.shape} does not fit values of shape {values.shape}")
    return np.ascontiguousarray(importance, np.float32).reshape(-1)
