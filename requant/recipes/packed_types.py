"""Types that layers of compressed-tensors can have, by the names that users type."""

from __future__ import annotations

from typing import Final

from requant.digits import whole
from requant.encodings.compressed import Packed
from requant.errors import PlanError

#: Columns that share a scale, unless the name says how many.
_GROUPS: Final = {"W4A16": 128, "W8A16": -1}


def packed_encoding(text: str) -> Packed | None:
    """What `--tensor-type` gives a layer: `W4A16`, `W8A16-64`, `W4A16-128-ASYM`; None for names that are not of these.

    >>> packed_encoding("w8a16-64").label
    'CT-8b-g64-BF16'
    """
    name, *parameters = text.upper().split("-")
    if name not in _GROUPS:
        return None
    groups = [size for size in map(whole, parameters) if size is not None]
    strange = [word for word in parameters if whole(word) is None and word not in ("SYM", "ASYM")]
    if strange or len(groups) > 1:
        raise PlanError(f"{text} is not understood", hint="W4A16, W8A16-128, W4A16-64-ASYM")
    return Packed(int(name[1]), (groups or [_GROUPS[name]])[0], symmetric="ASYM" not in parameters)
