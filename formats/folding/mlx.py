"""MLX: words of 32 bits (`weight`, U32), `scales`, and `biases` where codes are integers.

Shapes fix bits * group; `quantization` of config.json says which, for all modules and for single ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.encodings import Shape
from requant.encodings.hqq import MlxAffine
from requant.encodings.scaled import Scaled
from requant.errors import FormatError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor, TensorSpec

_BITS: Final = (4, 8, 2, 3, 5, 6)
_GROUPS: Final = (64, 128, 32)
#: Words of a row for each of its scales -> small floats that come so.
_FLOATS: Final = {4: ("F4", 32), 2: ("F4", 16), 8: ("F8_E4M3", 32)}


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Fold every module whose weight is words beside scales."""
    found = pool.config.get("quantization")
    said = found if isinstance(found, dict) else config
    for module in pool.modules("scales"):
        weight, scales = pool.get(f"{module}.weight"), pool.need(module, "scales")
        if weight is not None and weight.encoding.label == "U32":
            _fold(pool, module, weight, scales, said)


def _fold(pool: Pool, module: str, weight: Tensor, scales: Tensor, said: Mapping[str, Json]) -> None:
    if len(weight.shape) < 2 or scales.shape[:-1] != weight.shape[:-1] or 0 in (*weight.shape, *scales.shape):
        raise FormatError(pool.path, f"module {module!r}: words {list(weight.shape)}, scales {list(scales.shape)}")
    words, groups = weight.shape[-1], scales.shape[-1]
    if scales.encoding.label == "U8":
        element, group = _FLOATS.get(words // groups if words % groups == 0 else 0, ("", 0))
        if not element or pool.get(f"{module}.biases") is not None:
            raise FormatError(pool.path, f"module {module!r}: {words} words under {groups} scales of 8 bits")
        shape: Shape = (*weight.shape[:-1], groups * group)
        pool.assemble(TensorSpec(weight.name, shape, Scaled("mlx", element, 1, group, "U8", storage="U32")))
        return
    if scales.encoding.label not in ("F16", "BF16", "F32"):
        raise FormatError(pool.path, f"{scales.name!r} is {scales.encoding.label}")
    bits, group = _width(pool, module, words, groups, said)
    shape = (*weight.shape[:-1], groups * group)
    pool.assemble(TensorSpec(weight.name, shape, MlxAffine(bits, group, scales.encoding.label)))


def _width(pool: Pool, module: str, words: int, groups: int, said: Mapping[str, Json]) -> tuple[int, int]:
    """Bits and group; of what the shapes allow, what the configuration says."""
    own = said.get(module)
    rule = {**said, **own} if isinstance(own, dict) else said
    fitting = [(b, g) for g in _GROUPS for b in _BITS if 32 * words == groups * g * b]
    if not fitting:
        raise FormatError(pool.path, f"module {module!r}: {words} words of 32 bits under {groups} scales fit no width")
    named = [pair for pair in fitting if pair == (rule.get("bits"), rule.get("group_size"))]
    if not named and len(fitting) > 1:
        bits, group = fitting[0]
        pool.remark(f"{module}.weight", f"taken for {bits} bits in groups of {group}: the configuration says neither")
    return (named or fitting)[0]
