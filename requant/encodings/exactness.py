"""Which encoding can hold another's values exactly, whatever they are."""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

from requant.encodings import Dense, Encoding


@runtime_checkable
class TakesCodes(Protocol):
    """An encoding of integers with scales, or of small floats with scales, that can take over another's as they are."""

    def takes_codes_of(self, source: Encoding) -> bool:
        """Whether the codes, scales and zeros of any tensor in `source` fit here unchanged."""
        ...


#: For each dtype, the dtypes that represent each of its values.
_WIDER: Final = {
    "F8_E4M3": {"F16", "BF16", "F32", "F64"},
    "F8_E5M2": {"F16", "BF16", "F32", "F64"},
    "F8_E8M0": {"BF16", "F32", "F64"},
    "F4": {"F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"},
    "F6_E2M3": {"F8_E4M3", "F16", "BF16", "F32", "F64"},
    "F6_E3M2": {"F8_E5M2", "F16", "BF16", "F32", "F64"},
    "F16": {"F32", "F64"},
    "BF16": {"F32", "F64"},
    "F32": {"F64"},
}


def holds(source: Encoding, target: Encoding) -> bool:
    """Whether every value that `source` can store is stored exactly by `target`."""
    if source == target:
        return True
    if isinstance(source, Dense) and isinstance(target, Dense):
        return target.label in _WIDER.get(source.label, ())
    return isinstance(target, TakesCodes) and target.takes_codes_of(source)
