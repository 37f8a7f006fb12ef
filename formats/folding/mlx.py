"""MLX: `weight` in 32-bit words beside `scales`, and `biases` where codes are integers.

The products of bits and group size follow from the shapes; where that fits several pairs (4 bits in groups of 64,
8 bits in groups of 32), the configuration says which: `quantization` of config.json, for all modules or for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from requant.encodings.mlx import GROUPS, WIDTHS, MlxAffine
from requant.encodings.scaled import Scaled
from requant.errors import FormatError, UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor, TensorSpec

#: Bits times group size -> (mode, element, columns that share a scale) of modes without offsets.
_FLOATS: Final[Mapping[int, tuple[str, str, int]]] = {
    4 * 16: ("nvfp4", "F4", 16),
    4 * 32: ("mxfp4", "F4", 32),
    8 * 32: ("mxfp8", "F8_E4M3", 32),
}
_SCALES: Final = ("F32", "F16", "BF16")
#: What MLX takes where nobody says otherwise.
_GROUP: Final = 64


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Put linear layers and embeddings together."""
    said = pool.config.get("quantization")
    settings = said if isinstance(said, dict) else config
    for module in pool.modules("scales"):
        weight = pool.get(f"{module}.weight")
        if weight is not None and weight.encoding.label == "U32":
            _fold(pool, module, weight, settings)


def _fold(pool: Pool, module: str, weight: Tensor, settings: Mapping[str, Json]) -> None:
    scales = pool.need(module, "scales")
    if len(weight.shape) < 2 or scales.shape[:-1] != weight.shape[:-1] or not scales.shape[-1]:
        raise FormatError(
            pool.path, f"'{module}.scales' is {list(scales.shape)}, which fits no {weight.name!r} {list(weight.shape)}"
        )
    packed, rest = divmod(32 * weight.shape[-1], scales.shape[-1])  # bits times group size
    dtype = scales.encoding.label
    if pool.get(f"{module}.biases") is None and dtype == "U8":
        if rest or packed not in _FLOATS:
            raise _unfit(pool, module, weight, scales)
        mode, element, group = _FLOATS[packed]
        encoding: MlxAffine | Scaled = Scaled("mlx", element, 1, group, "U8", storage="U32")
    elif dtype in _SCALES:
        mode, pairs = "affine", [] if rest else _pairs(packed)
        if not pairs:
            raise _unfit(pool, module, weight, scales)
        bits, group = _chosen(pool, module, settings, pairs)
        encoding = MlxAffine(bits, group, dtype)
    else:
        raise FormatError(pool.path, f"'{module}.scales' is {dtype}, not one of {', '.join(_SCALES)}")
    _agree(pool, module, settings, mode)
    pool.assemble(TensorSpec(weight.name, (*weight.shape[:-1], scales.shape[-1] * group), encoding))


def _pairs(packed: int) -> list[tuple[int, int]]:
    """The (bits, group size) whose product this is, the usual group size first."""
    groups = sorted(GROUPS, key=lambda group: group != _GROUP)
    return [(packed // group, group) for group in groups if packed % group == 0 and packed // group in WIDTHS]


def _chosen(pool: Pool, module: str, settings: Mapping[str, Json], pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The pair that is said of the module, or of all; else the one with that group size, or the usual one, and told."""
    said = list(_said(module, settings))
    for pair in said:
        if pair in pairs:
            return pairs[pairs.index(pair)]
    groups = [group for _, group in said]
    bits, group = next((pair for pair in pairs if pair[1] in groups), pairs[0])
    pool.remark(f"{module}.weight", f"no configuration says so: read as {bits} bits in groups of {group}")
    return bits, group


def _said(module: str, settings: Mapping[str, Json]) -> Iterator[tuple[Json, Json]]:
    """(bits, group size) as configured, the module's own first."""
    for entry in (settings.get(module), settings):
        if isinstance(entry, dict):
            yield entry.get("bits"), entry.get("group_size")


def _agree(pool: Pool, module: str, settings: Mapping[str, Json], found: str) -> None:
    """What the arrays show counts; a configuration that says otherwise is told of."""
    own = settings.get(module)
    mode = (own if isinstance(own, dict) else settings).get("mode", found)
    if mode != found:
        pool.remark(f"{module}.weight", f"the configuration says mode {mode!r}; the arrays are {found}")


def _unfit(pool: Pool, module: str, weight: Tensor, scales: Tensor) -> UnsupportedError:
    return UnsupportedError(
        f"{pool.path}: {weight.name!r} U32{list(weight.shape)} under '{module}.scales' "
        f"{scales.encoding.label}{list(scales.shape)} is no mode of MLX that is known here",
        hint="affine has 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128; mxfp4, nvfp4 and mxfp8 have U8 scales",
    )
