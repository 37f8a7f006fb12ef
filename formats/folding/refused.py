"""Formats that are known by their arrays or their configuration, and not read: each is refused by its name.

A configuration alone refuses nothing: it may be left over from weights that are plain now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.errors import UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json

#: Suffixes of the arrays of one module -> the format. Every suffix of a key must be there.
_BY_ARRAYS: Final[Mapping[tuple[str, ...], str]] = {
    ("trellis",): "EXL3",
    ("_weight_qdata",): "torchao",
    ("codes", "codebooks"): "AQLM",
    ("Qidxs",): "QuIP#",
    ("indices", "centroids"): "VPTQ",
    ("centroids.weight",): "VPTQ",
    ("dense_weights", "row_offsets"): "SpQR",
    ("qweight", "tables2"): "HIGGS",
    ("qweight", "forward_hadamard_matrix"): "FP-Quant",
    ("dqweight", "forward_hadamard_matrix"): "FP-Quant",
    ("weight", "weight_scales"): "EETQ",
    ("weight._data", "weight._scale"): "quanto",
}

#: `quant_method` -> the format, where arrays do not tell it from another.
_BY_METHOD: Final[Mapping[str, str]] = {
    "exl3": "EXL3",
    "torchao": "torchao",
    "aqlm": "AQLM",
    "quip": "QuIP#",
    "quip_sharp": "QuIP#",
    "vptq": "VPTQ",
    "spqr": "SpQR",
    "higgs": "HIGGS",
    "fp_quant": "FP-Quant",
    "eetq": "EETQ",
    "quanto": "quanto",
    "bitnet": "BitNet",
    "sinq": "SINQ",
    "fouroversix": "Four Over Six",
}
#: dtypes that no plain weight has.
_CODES: Final = ("U8", "I8", "I16", "U16", "I32", "U32", "F8_E4M3", "F8_E5M2", "F4")


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Raise `UnsupportedError` for a format that is only known; fold nothing."""
    for suffixes, name in _BY_ARRAYS.items():
        first, *others = suffixes
        for module in pool.modules(first):
            if all(pool.get(f"{module}.{suffix}") is not None for suffix in others):
                _refuse(pool, module, name)
    method = config.get("quant_method")
    if method in _BY_METHOD:
        for module in pool.modules("weight"):
            if _holds_codes(pool, f"{module}.weight"):
                _refuse(pool, module, _BY_METHOD[str(method)])
    if method == "quark":  # its 8-bit floats are like those of others
        for module in pool.modules("weight_scale"):
            if _holds_codes(pool, f"{module}.weight") and not _holds_codes(pool, f"{module}.weight", ("F8_E4M3",)):
                _refuse(pool, module, "Quark")


def _holds_codes(pool: Pool, name: str, dtypes: tuple[str, ...] = _CODES) -> bool:
    tensor = pool.get(name)
    return tensor is not None and len(tensor.shape) > 1 and tensor.encoding.label in dtypes


def _refuse(pool: Pool, module: str, name: str) -> None:
    raise UnsupportedError(
        f"{pool.path}: module {module!r} is stored as {name}, which is not read",
        hint="dequantize the model with the library that made it, or start from the original",
    )
