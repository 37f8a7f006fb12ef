"""Four-bit floats under one scale of eight bits for each group: which encodings can take over which codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from requant.encodings import Blocks, Encoding


@dataclass(frozen=True, slots=True)
class SmallFloats:
    """E2M1 codes, `group` of which share a scale stored as `scale` (F8_E8M0 or F8_E4M3).

    whole: "multiplies" or "divides" where there is one more scale, an F32 of the whole tensor; "" where there is not.
    """

    group: int
    scale: str
    whole: str = ""

    def takes(self, source: SmallFloats) -> bool:
        """Whether codes and scales of any tensor stored as `source` fit here unchanged; where none is, it is 1."""
        return self.keeps(source) and source.whole in ("", self.whole)

    def keeps(self, source: SmallFloats) -> bool:
        """Whether they do but for the scale of the whole tensor, of which the inverse is stored, rounded."""
        return (source.group, source.scale) == (self.group, self.scale) and bool(self.whole or not source.whole)


@runtime_checkable
class HasSmallFloats(Protocol):
    """An encoding of 4-bit floats; repacks between any two of them that agree are found by `small_floats_of`."""

    @property
    def small_floats(self) -> SmallFloats | None:
        """What its codes and scales are; None when they are something else."""
        ...


#: The two block types of ggml. Its bytes of scales stand for half of what they mean here, its levels for twice.
_BLOCKS: Final[Mapping[str, SmallFloats]] = {
    "MXFP4": SmallFloats(32, "F8_E8M0"),
    "NVFP4": SmallFloats(16, "F8_E4M3"),
}


def small_floats_of(encoding: Encoding) -> SmallFloats | None:
    """The 4-bit floats an encoding is made of, if it is."""
    if isinstance(encoding, Blocks):
        return _BLOCKS.get(encoding.label)
    return encoding.small_floats if isinstance(encoding, HasSmallFloats) else None


def takes(source: Encoding, target: Encoding) -> bool:
    """Whether the codes and scales of any tensor in `source` fit `target` unchanged."""
    taken, taking = small_floats_of(source), small_floats_of(target)
    return taken is not None and taking is not None and taking.takes(taken)


def keeps(source: Encoding, target: Encoding) -> bool:
    """Whether all of them do but the scale of the whole tensor, whose inverse is rounded."""
    taken, taking = small_floats_of(source), small_floats_of(target)
    return taken is not None and taking is not None and taking.keeps(taken)
