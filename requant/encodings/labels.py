"""What encodings are called in lists and tables."""

from __future__ import annotations

from requant.encodings import Blocks, Dense, Encoding


def type_name(encoding: Encoding) -> str:
    """The label, but for EXL2, which differs from layer to layer."""
    if isinstance(encoding, Dense | Blocks):  # whoever looks at a GGUF waits for no others
        return encoding.label
    from requant.encodings.exl2 import Exl2

    return "EXL2" if isinstance(encoding, Exl2) else encoding.label


def short_label(encoding: Encoding) -> str:
    """For people: `EXL2 8/4` has groups of 8 and of 4 bits; the whole label tells how many of what size."""
    from requant.encodings.exl2 import Exl2

    if isinstance(encoding, Exl2):
        return "EXL2 " + "/".join(str(bits) for bits in dict.fromkeys(bits for bits, *_ in encoding.groups))
    return type_name(encoding)
