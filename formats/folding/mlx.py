"""MLX: `weight` in 32-bit words beside `scales`, and `biases` where codes are integers.

The products of bits and group size follow from the shapes; where that fits several pairs (4 bits in groups of 64,
8 bits in groups of 32), the configuration says which: `quantization` of config.json, for all modules or for one. Where
it names no module, mlx-lm goes by the columns that the model needs, not by what is said of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.encodings.mlx import GROUPS, WIDTHS, MlxAffine
from requant.encodings.scaled import ELEMENT_BITS, MLX_FLOATS, Scaled
from requant.errors import FormatError, UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor, TensorSpec

#: Bits times group size -> the mode without offsets.
_FLOATS: Final = {ELEMENT_BITS[floats.element] * floats.columns: mode for mode, floats in MLX_FLOATS.items()}
_SCALES: Final = ("F32", "F16", "BF16")
#: What MLX takes where nobody says otherwise, or says null.
_GROUP: Final = 64
_BITS: Final = 4
#: Keys of config.json that are lengths of rows, those of attention apart.
_LENGTHS: Final = (
    *("hidden_size", "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
    *("n_embd", "n_inner", "d_model", "d_ff", "ffn_hidden_size"),
)


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
        mode = _FLOATS[packed]
        group = MLX_FLOATS[mode].columns
        encoding: MlxAffine | Scaled = _floats(pool, module, weight, MLX_FLOATS[mode])
    elif dtype in _SCALES:
        mode, pairs = "affine", [] if rest else _pairs(packed)
        if not pairs:
            raise _unfit(pool, module, weight, scales)
        bits, group = _chosen(pool, module, settings, pairs, scales.shape[-1])
        encoding = MlxAffine(bits, group, dtype)
    else:
        raise FormatError(pool.path, f"'{module}.scales' is {dtype}, not one of {', '.join(_SCALES)}")
    _agree(pool, module, settings, mode)
    pool.assemble(TensorSpec(weight.name, (*weight.shape[:-1], scales.shape[-1] * group), encoding))


def _floats(pool: Pool, module: str, weight: Tensor, encoding: Scaled) -> Scaled:
    """Floats, perhaps with one more scale for the weight, or for each expert."""
    whole = pool.get(f"{module}.global_scale")
    if whole is None:
        return encoding
    form = "matrices" if len(weight.shape) > 2 else "one" if whole.shape else "scalar"
    return replace(encoding, whole="largest", whole_form=form)


def _pairs(packed: int) -> list[tuple[int, int]]:
    """The (bits, group size) whose product this is, the usual group size first, a single bit last."""
    fitting = [(packed // group, group) for group in GROUPS if packed % group == 0 and packed // group in WIDTHS]
    return sorted(fitting, key=lambda pair: (pair[0] == 1, pair[1] != _GROUP))


def _chosen(
    pool: Pool, module: str, settings: Mapping[str, Json], pairs: Sequence[tuple[int, int]], groups: int
) -> tuple[int, int]:
    """The pair that is said of the module; else the one that gives rows of a length the model has, preferably what is
    said of all; else what is said of all, or the usual one, and told."""
    own, general = _said(settings.get(module)), _said(dict(settings))
    if own in pairs:
        return pairs[pairs.index(own)]
    lengths = _lengths(pool.config)
    known = [pair for pair in pairs if groups * pair[1] in lengths]
    if general in pairs and (general in known or not known):
        return pairs[pairs.index(general)]
    sizes = [pair for pair in (own, general) if pair is not None]
    likely = known or [pair for pair in pairs if pair[1] in (size for _, size in sizes)] or pairs
    bits, group = likely[0]
    pool.remark(f"{module}.weight", f"no configuration says so: read as {bits} bits in groups of {group}")
    return bits, group


def _said(entry: Json) -> tuple[Json, Json] | None:
    """(bits, group size) as configured; null stands for MLX's defaults."""
    if not isinstance(entry, dict) or not ({"bits", "group_size"} & set(entry)):
        return None
    bits, group = entry.get("bits"), entry.get("group_size")
    return (_BITS if bits is None else bits), (_GROUP if group is None else group)


def _lengths(config: Mapping[str, Json]) -> set[int]:
    """Lengths of rows that a model of this configuration has."""
    text = config.get("text_config")
    flat = {**config, **text} if isinstance(text, dict) else config
    numbers = {key: value for key, value in flat.items() if isinstance(value, int) and not isinstance(value, bool)}
    heads, hidden = numbers.get("num_attention_heads", 0), numbers.get("hidden_size", 0)
    attention = heads * numbers.get("head_dim", hidden // heads if heads > 0 else 0)
    return {numbers[key] for key in _LENGTHS if key in numbers} | {attention} - {0}


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
        hint="affine has 1 to 6 or 8 bits in groups of 16, 32, 64 or 128; mxfp4, nvfp4 and mxfp8 have U8 scales",
    )
