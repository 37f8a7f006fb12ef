"""Which encoding can hold another's values exactly, whatever they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from requant.encodings import F32, Blocks, Dense, Encoding


@dataclass(frozen=True, slots=True)
class Integers:
    """Numbers stored as integers in groups: value = (code - zero) * scale.

    bits: a code is 0 .. 2**bits - 1. symmetric: every zero is 2**(bits - 1); otherwise each group has one of its own,
    in the range of the codes. group: consecutive columns that share a scale; -1 for a whole row. scale: dtype of the
    scales. ordered: columns are listed to groups one by one instead (GPTQ's activation order).

    The product is the reader's affair: GPTQ's and AWQ's kernels round it to the dtype of the scale, ggml's do not.
    """

    bits: int
    symmetric: bool
    group: int
    scale: str = "F16"
    ordered: bool = False

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest code - zero."""
        if self.symmetric:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 1 - (1 << self.bits), (1 << self.bits) - 1

    def takes(self, source: Integers) -> bool:
        """Whether the integers and scales of any tensor stored as `source` fit here, none of them rounded."""
        if source.ordered != self.ordered or source.scale != self.scale or not self._divides(source.group):
            return False
        if not self.symmetric:
            return source.bits <= self.bits
        (low, high), (lowest, highest) = source.range, self.range
        return lowest <= low and high <= highest

    def _divides(self, group: int) -> bool:
        """Whether every group of ours lies in one group of `group` columns: scales may be repeated, never merged."""
        if group == self.group:
            return True
        if self.ordered or self.group < 0:
            return False
        return group < 0 or group % self.group == 0


@dataclass(frozen=True, slots=True)
class Offsets:
    """Codes with a scale and an offset in F16 for 32 columns: value = code * scale + offset (Q4_1, Q5_1).

    An integer zero becomes the offset -zero * scale, which is rounded; a power of two leaves nothing to round.
    """

    bits: int

    def keeps(self, source: Integers) -> bool:
        """Whether codes and scales fit here unchanged, whatever happens to the zeros."""
        return source.bits <= self.bits and Integers(source.bits, source.symmetric, 32).takes(source)


@runtime_checkable
class TakesCodes(Protocol):
    """An encoding of small floats with scales that can take over another's as they are."""

    def takes_codes_of(self, source: Encoding) -> bool:
        """Whether the codes, scales and zeros of any tensor in `source` fit here unchanged."""
        ...


@runtime_checkable
class HasIntegers(Protocol):
    """An encoding of integers with scales; repacks between any two of them are found by `holds`."""

    @property
    def integers(self) -> Integers | None:
        """What its codes are; None when they are something else."""
        ...


@runtime_checkable
class HasValues(Protocol):
    """An encoding whose decoded values are rounded to a dtype narrower than float32."""

    @property
    def values(self) -> Dense:
        """The dtype that holds each of them."""
        ...


#: The integers in ggml's blocks. Q8_0 can hold -128 * scale, which ggml's own encoder never makes and every decoder
#: reads.
_INTEGERS: Final[Mapping[str, Integers]] = {
    "Q4_0": Integers(4, True, 32),
    "Q5_0": Integers(5, True, 32),
    "Q8_0": Integers(8, True, 32),
}
_OFFSETS: Final[Mapping[str, Offsets]] = {"Q4_1": Offsets(4), "Q5_1": Offsets(5)}

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
    if isinstance(target, Dense):
        values = values_of(source)
        return values == target or target.label in _WIDER.get(values.label, ())
    taken, taking = integers_of(source), integers_of(target)
    if taken is not None and taking is not None:
        return taking.takes(taken)
    if taken is not None and taken.symmetric and keeps_codes(source, target):
        return True
    return isinstance(target, TakesCodes) and target.takes_codes_of(source)


def keeps_codes(source: Encoding, target: Encoding) -> bool:
    """Whether `target` takes over the codes and scales of `source` as they are and rounds nothing but the zeros."""
    taken = integers_of(source)
    offsets = _OFFSETS.get(target.label) if isinstance(target, Blocks) else None
    return taken is not None and offsets is not None and offsets.keeps(taken)


def integers_of(encoding: Encoding) -> Integers | None:
    """The integers an encoding is made of, if it is."""
    if isinstance(encoding, Blocks):
        return _INTEGERS.get(encoding.label)
    return encoding.integers if isinstance(encoding, HasIntegers) else None


def values_of(encoding: Encoding) -> Dense:
    """The dtype that holds every decoded value: its own, if it is dense, or else float32 unless it says otherwise."""
    if isinstance(encoding, Dense):
        return encoding
    return encoding.values if isinstance(encoding, HasValues) else F32
