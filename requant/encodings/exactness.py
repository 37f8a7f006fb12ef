"""Which encoding can hold another's values exactly, whatever they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, runtime_checkable

from requant.encodings import BF16, F32, Blocks, Dense, Encoding, small_floats


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
        if source.ordered != self.ordered or source.scale != self.scale:
            return False
        if self.group != source.group if self.ordered else not divides(self.group, source.group):
            return False
        if not self.symmetric:
            return source.bits <= self.bits
        (low, high), (lowest, highest) = source.range, self.range
        return lowest <= low and high <= highest


@dataclass(frozen=True, slots=True)
class Offsets:
    """Numbers stored as integers in groups with an offset instead of a zero: value = code * scale + offset.

    scale: dtype of the scales and the offsets. An integer zero becomes the offset -zero * scale, which is rounded;
    only where the zero is a power of two is there nothing to round.
    """

    bits: int
    group: int
    scale: str = "F16"

    def takes(self, source: Integers | Offsets) -> bool:
        """Whether the codes, scales and offsets of any tensor stored as `source` fit here, none of them rounded."""
        return self.keeps(source) and (isinstance(source, Offsets) or source.symmetric)

    def keeps(self, source: Integers | Offsets) -> bool:
        """Whether codes and scales fit here unchanged, whatever happens to the zeros."""
        if source.bits > self.bits or source.scale != self.scale:
            return False
        return not (isinstance(source, Integers) and source.ordered) and divides(self.group, source.group)


def divides(group: int, other: int) -> bool:
    """Whether every group of `group` columns lies in one of `other`: scales can be repeated, never merged."""
    return group == other or (group > 0 and (other < 0 or other % group == 0))


@runtime_checkable
class HasIntegers(Protocol):
    """An encoding of integers with scales; repacks between any two of them are found by `holds`."""

    @property
    def integers(self) -> Integers | Offsets | None:
        """What its codes are; None when they are something else."""
        ...


@runtime_checkable
class HasValues(Protocol):
    """An encoding whose decoded values are rounded to a dtype narrower than float32."""

    @property
    def values(self) -> Dense:
        """The dtype that holds each of them."""
        ...


@runtime_checkable
class HasShared(Protocol):
    """An encoding that may have a number for a whole tensor."""

    @property
    def shared(self) -> bool:
        """Whether it has."""
        ...


#: The integers in ggml's blocks. Q8_0 can hold -128 * scale, which ggml's own encoder never makes and every decoder
#: reads.
_BLOCKS: Final[Mapping[str, Integers | Offsets]] = {
    "Q4_0": Integers(4, True, 32),
    "Q4_1": Offsets(4, 32),
    "Q5_0": Integers(5, True, 32),
    "Q5_1": Offsets(5, 32),
    "Q8_0": Integers(8, True, 32),
}

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


@lru_cache(1024)  # a plan asks for the same few pairs thousands of times
def holds(source: Encoding, target: Encoding) -> bool:
    """Whether every value that `source` can store is stored exactly by `target`."""
    if source == target:
        return True
    if isinstance(target, Dense):
        values = values_of(source)
        return values == target or target.label in _WIDER.get(values.label, ())
    taken, taking = integers_of(source), integers_of(target)
    if isinstance(taken, Integers) and isinstance(taking, Integers):
        return taking.takes(taken)
    if taken is not None and isinstance(taking, Offsets):
        return taking.takes(taken)
    return small_floats.takes(source, target)


@lru_cache(1024)
def keeps_codes(source: Encoding, target: Encoding) -> bool:
    """Whether `target` takes over the codes and scales of `source` as they are, and rounds one thing beside them.

    That is integer zeros, which become offsets; or the scale of a whole tensor of 4-bit floats, which is inverted.
    """
    taken, taking = integers_of(source), integers_of(target)
    if taken is not None and isinstance(taking, Offsets):
        return taking.keeps(taken)
    return small_floats.keeps(source, target)


@lru_cache(1024)
def takes_codes(source: Encoding, target: Encoding) -> bool:
    """Whether codes and scales can be carried over without computing a value, all as they are or but for one thing."""
    if isinstance(target, Dense) or (integers_of(source) is None and small_floats.small_floats_of(source) is None):
        return False
    return holds(source, target) or keeps_codes(source, target)


def shares(encoding: Encoding) -> bool:
    """Whether a stored number belongs to all rows of a tensor, so that tensors cannot be joined row by row."""
    # plain numbers first: asking a protocol costs more than all else in a plan with thousands of experts
    return not isinstance(encoding, Dense) and isinstance(encoding, HasShared) and encoding.shared


def integers_of(encoding: Encoding) -> Integers | Offsets | None:
    """The integers an encoding is made of, if it is."""
    if isinstance(encoding, Blocks):
        return _BLOCKS.get(encoding.label)
    return encoding.integers if isinstance(encoding, HasIntegers) else None


def values_of(encoding: Encoding) -> Dense:
    """The dtype that holds every decoded value: its own, if it is dense, or else float32 unless it says otherwise."""
    if isinstance(encoding, Dense):
        return encoding
    if isinstance(encoding, Blocks):  # whose `values` is a number: how many are in a block
        return BF16 if encoding.label == "MXFP4" else F32
    return encoding.values if isinstance(encoding, HasValues) else F32
