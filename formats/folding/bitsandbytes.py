"""bitsandbytes: `weight.quant_state.bitsandbytes__nf4`, `__fp4`, and `SCB` beside int8 weights."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Final

from requant.dtypes import DTYPES
from requant.encodings import Dense
from requant.encodings.bitsandbytes import NESTED, FourBit, RowInt8
from requant.errors import FormatError, UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor, TensorSpec
from requant.json_values import parse_json
from requant.sources import read

#: A description is a few hundred bytes; a longer one is something else.
_LONGEST_STATE: Final = 1 << 16
_DTYPES: Final = ("float16", "bfloat16", "float32")
#: Families whose plain matrices lie as [in, out]: those that bitsandbytes has quantized lie the other way.
_TRANSPOSED: Final = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Put bitsandbytes tensors together; the configuration is not needed."""
    for table in ("nf4", "fp4"):
        for name in pool.modules(f"quant_state.bitsandbytes__{table}"):
            _four_bit(pool, name, table)
    for module in pool.modules("SCB"):
        _int8(pool, module)
    quantized = any(not isinstance(tensor.encoding, Dense) for name in pool.names() if (tensor := pool.get(name)))
    if quantized and pool.config.get("model_type") in _TRANSPOSED:
        raise UnsupportedError(
            f"{pool.path}: bitsandbytes has transposed the matrices of this {pool.config['model_type']}",
            hint="load it with transformers, dequantize it, and save it; or convert the original model",
        )


def _four_bit(pool: Pool, name: str, table: str) -> None:
    """`name` is the weight's own name."""
    state_array = pool.need(name, f"quant_state.bitsandbytes__{table}")
    state = _state(pool, state_array)
    shape, block, dtype = state.get("shape"), state.get("blocksize"), state.get("dtype")
    if not (isinstance(shape, list) and shape and all(isinstance(n, int) and n > 0 for n in shape)):
        raise FormatError(pool.path, f"{state_array.name}: the shape is {shape!r}, not a list of sizes")
    if not (isinstance(block, int) and block >= 2 and block & (block - 1) == 0):
        raise FormatError(pool.path, f"{state_array.name}: the blocksize is {block!r}, not a power of two")
    if dtype not in _DTYPES or state.get("quant_type") != table:
        told = f"quant_type {state.get('quant_type')!r}, dtype {dtype!r}"
        raise FormatError(pool.path, f"{state_array.name}: {told}; expected {table!r} and one of {', '.join(_DTYPES)}")
    double = pool.get(f"{name}.nested_absmax") is not None
    if double and (state.get("nested_blocksize") != NESTED or not isinstance(state.get("nested_offset"), int | float)):
        raise FormatError(pool.path, f"{state_array.name}: nested scales need nested_blocksize {NESTED} and an offset")
    codes = pool.get(name)
    if codes is None or not isinstance(codes.encoding, Dense):
        raise FormatError(pool.path, f"{name!r} has a quant_state, and no weight", hint=pool.missing)
    encoding = FourBit(table, str(dtype), block, double, codes.encoding.label, prod(state_array.shape))
    pool.assemble(TensorSpec(name, tuple(n for n in shape if isinstance(n, int)), encoding))


def _int8(pool: Pool, module: str) -> None:
    weight = pool.get(f"{module}.weight")
    if weight is None or weight.encoding != Dense(DTYPES["I8"]):
        raise FormatError(pool.path, f"module {module!r} has an SCB, and no int8 weight", hint=pool.missing)
    mark = pool.get(f"{module}.weight_format")
    if mark is not None and (mark.nbytes != 1 or read(next(iter(mark.sources.values())))[0] != 0):
        raise UnsupportedError(
            f"{pool.path}: {module}.weight is stored in a layout of one kind of GPU",
            hint="load it with bitsandbytes on such a GPU and save it again",
        )
    pool.assemble(TensorSpec(weight.name, weight.shape, RowInt8(mark is not None)))


def _state(pool: Pool, array: Tensor) -> dict[str, Json]:
    if array.nbytes > _LONGEST_STATE:
        raise FormatError(pool.path, f"{array.name}: {array.nbytes} bytes are no description of a tensor")
    return parse_json(read(array.sources["data"]).tobytes(), pool.path / array.name).object()
