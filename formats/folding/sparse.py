"""compressed-tensors' sparse formats of old: `scale_packed` and `meta` (marlin-24); `compressed` and `bitmask`."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from requant.dtypes import DTYPES
from requant.encodings import Dense
from requant.encodings.scaled import Scaled
from requant.encodings.sparse import Bitmask, Marlin24
from requant.errors import FormatError, UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json, TensorSpec
from requant.sources import read


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Fold both."""
    for module in pool.modules("meta"):
        if pool.get(f"{module}.scale_packed") is not None:
            _marlin(pool, module, gptq=False)
    for module in pool.modules("B_24"):
        _marlin(pool, module, gptq=True)
    for stem in pool.modules("bitmask"):
        if pool.get(f"{stem}.compressed") is not None or pool.get(f"{stem}.shape") is not None:
            _bitmask(pool, stem)


def _marlin(pool: Pool, module: str, *, gptq: bool) -> None:
    names = ("B_24", "s") if gptq else ("weight_packed", "scale_packed")
    packed, scales = (pool.need(module, name) for name in names)
    if len(packed.shape) != 2 or len(scales.shape) != 2 or not scales.shape[0] or not scales.shape[1]:
        raise FormatError(pool.path, f"module {module!r}: {names[0]!r} and {names[1]!r} are no matrices")
    inputs, (groups, outputs) = 32 * packed.shape[0], scales.shape
    bits = 2 * packed.shape[1] // outputs
    if bits not in (4, 8) or not inputs or inputs % groups:
        raise FormatError(
            pool.path, f"module {module!r}: {list(packed.shape)} words under {list(scales.shape)} scales are no tiles"
        )
    encoding = Marlin24(bits, -1 if groups == 1 else inputs // groups, gptq)
    pool.assemble(TensorSpec(f"{module}.weight", (outputs, inputs), encoding))


def _bitmask(pool: Pool, stem: str) -> None:
    """`stem` is the weight's name, or in the 2:4 format the module's."""
    stored, shape = pool.need(stem, "compressed"), pool.need(stem, "shape")
    if shape.shape != (2,) or shape.encoding.label != "I64" or not isinstance(stored.encoding, Dense):
        raise FormatError(pool.path, f"{shape.name!r} is {shape.encoding.label}{list(shape.shape)}, not two sizes")
    rows, columns = (int(n) for n in read(shape.sources["data"]).view("<i8"))
    if rows <= 0 or columns <= 0:
        raise FormatError(pool.path, f"{shape.name!r} says {rows} by {columns}")
    inside, halves = stem.endswith(".weight"), pool.get(f"{stem}.row_offsets") is None
    module = stem.removesuffix(".weight")
    inner: Dense | Scaled = stored.encoding
    scales = pool.get(f"{module}.weight_scale")
    if stored.encoding.label in ("F8_E4M3", "I8"):
        if scales is None:
            raise FormatError(pool.path, f"module {module!r} has no 'weight_scale'", hint=pool.missing)
        form = {(1,): "one", (): "scalar", (rows, 1): "grid"}.get(scales.shape)
        if form is None or pool.get(f"{module}.weight_zero_point") is not None:
            raise UnsupportedError(f"{pool.path}: module {module!r} is sparse under scales {list(scales.shape)}")
        inner = Scaled("ct", stored.encoding.label, scale=scales.encoding.label, form=form)
    elif stored.encoding.dtype not in (DTYPES["F16"], DTYPES["BF16"], DTYPES["F32"]):
        raise FormatError(pool.path, f"{stored.name!r} is {stored.encoding.label}")
    encoding = Bitmask(inner, prod(stored.shape), halves, inside)
    pool.assemble(TensorSpec(f"{module}.weight", (rows, columns), encoding))
