"""Every key of a quantization config is known, or the reading stops and names it.

Who drops a key that it does not know writes a model that is noise without a word: a rotation, another element format
and a low-rank correction are told by nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from requant.errors import UnsupportedError
from requant.formats.folding.keys import floats, integers
from requant.formats.folding.keys.rule import Scheme, Unclaimed, unclaimed
from requant.formats.folding.keys.unread import UNREAD
from requant.formats.folding.pool import Pool
from requant.ir import Json

#: Every scheme, in the order in which a configuration without a method is held against them.
SCHEMES: Final = (
    *(integers.GPTQ, integers.AWQ, integers.AUTO_ROUND, integers.PARO, integers.EXL2, integers.HQQ, integers.MLX),
    *(integers.BITSANDBYTES, floats.COMPRESSED, floats.FP8, floats.MXFP4, floats.MODELOPT, floats.QUARK),
    *(floats.TORCHAO, UNREAD),
)
_BY_METHOD: Final[Mapping[str, Scheme]] = {method: scheme for scheme in SCHEMES for method in scheme.methods}

#: Keys that folds heed in the configuration that counts: another one must not say otherwise.
_ROTATIONS: Final = ("rotation", "rotation_config")


def claim_keys(pool: Pool, config: Mapping[str, Json]) -> None:
    """Raise `UnsupportedError` for a key of a quantization config that no table knows, or a value that is not read."""
    for place, config in pool.configurations:
        scheme = scheme_of(config)
        if scheme is None:
            raise UnsupportedError(
                f"{pool.path}: {place} says quant_method {config.get('quant_method')!r}, which is not known here",
                hint="load the model with the library that wrote it, dequantize it, and save it",
            )
        for found in unclaimed(config, scheme):
            raise _refusal(pool, place, scheme, found)
        for key in _ROTATIONS:
            if config.get(key) and config[key] != pool.quantization.get(key):
                said = Unclaimed(key, config[key], "is not what the configuration says that counts", known=True)
                raise _refusal(pool, place, scheme, said)


def scheme_of(config: Mapping[str, Json]) -> Scheme | None:
    """Whose configuration this is: by its method, else the one that knows all its keys; None where none does."""
    method = config.get("quant_method")
    if isinstance(method, str) and method:
        return _BY_METHOD.get(method.lower().replace(" ", ""))
    if method is not None and not isinstance(method, str):
        return None
    return next(_unnamed(config), integers.GPTQ)


def _unnamed(config: Mapping[str, Json]) -> Iterator[Scheme]:
    """The schemes that know every key, or else every key but some whose value they refuse."""
    found = [(scheme, [key.known for key in unclaimed(config, scheme)]) for scheme in SCHEMES]
    yield from (scheme for scheme, keys in found if not keys)
    yield from (scheme for scheme, keys in found if all(keys))


def _refusal(pool: Pool, place: str, scheme: Scheme, found: Unclaimed) -> UnsupportedError:
    more = "" if found.known else f" of {scheme.name}: it may change what the weights are"
    hint = f"load the model with {scheme.library}, dequantize it, and save it; or convert the original model"
    if not found.known:
        hint += "; a key that surely changes no weight may be taken out of the configuration"
    return UnsupportedError(f"{pool.path}: {place} says {found.said}, which {found.why}{more}", hint=hint)
