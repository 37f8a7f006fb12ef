"""torchao's plain layouts: `m._weight_qdata`, `m._weight_scale`, `m._weight_zero_point`; the metadata names the class.

Source: torchao 0.18 (`prototype/safetensors`, `quantization/quantize_/workflows`). A weight `m.weight` of a class of
torchao's is stored as its arrays, each under `m._weight_` and the name of the attribute, and `__metadata__` has a JSON
object for it: `_type`, and in `_data` what is no array.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn

from requant.encodings.scaled import Scaled
from requant.errors import FormatError, UnsupportedError
from requant.formats.folding.pool import Pool
from requant.formats.folding.scaled import grain_of
from requant.ir import Json, Tensor, TensorSpec
from requant.json_values import parse_json

#: Classes that keep a row of the weight as a row of numbers -> dtypes of these.
_PLAIN: Final[Mapping[str, tuple[str, ...]]] = {
    "Int8Tensor": ("I8",),
    "IntxUnpackedToInt8Tensor": ("I8",),
    "Float8Tensor": ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
}
_SCALES: Final = ("F32", "F16", "BF16")
_QDATA: Final = "_qdata"
_HINT: Final = "load the model with transformers, dequantize it, and save it as safetensors"


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Put together what rows of numbers are, and refuse every other class by name."""
    for name in pool.ending(_QDATA):
        module, _, attribute = name.removesuffix(_QDATA).rpartition("._")
        if not module:
            continue
        codes, scales = pool.get(name), pool.get(f"{module}._{attribute}_scale")
        kind = _class_of(pool, f"{module}.{attribute}")
        assert codes is not None
        if kind not in _PLAIN or codes.encoding.label not in _PLAIN[kind] or attribute != "weight" or scales is None:
            _refuse(pool, name, kind)
        _fold(pool, module, codes, scales, kind)


def _fold(pool: Pool, module: str, codes: Tensor, scales: Tensor, kind: str) -> None:
    zeros = pool.get(f"{module}._weight_zero_point")
    if scales.encoding.label not in _SCALES or len(codes.shape) != 2:
        _refuse(pool, codes.name, kind)
    rows, columns, form = grain_of(pool, codes.name, codes.shape, scales)
    zero = "" if zeros is None else zeros.encoding.label
    if zero not in ("", "I8", "I32", *_SCALES):
        _refuse(pool, codes.name, kind)
    encoding = Scaled("torchao", codes.encoding.label, rows, columns, scales.encoding.label, form, zero)
    pool.assemble(TensorSpec(f"{module}.weight", codes.shape, encoding))


def _class_of(pool: Pool, name: str) -> str:
    """What class the metadata names for a tensor; "" where it names none."""
    typed = pool.metadata.get(name)
    try:
        said = {} if typed is None else parse_json(str(typed.value).encode(), pool.path).value
    except (UnicodeEncodeError, FormatError):
        return ""
    kind = said.get("_type") if isinstance(said, dict) else ""
    return kind if isinstance(kind, str) and kind.isidentifier() else ""


def _refuse(pool: Pool, name: str, kind: str) -> NoReturn:
    of = f"torchao's {kind}" if kind else "torchao"
    raise UnsupportedError(f"{pool.path}: {name!r} is quantized by {of}, which is not read here", hint=_HINT)
