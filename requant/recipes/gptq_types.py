"""Types that layers of GPTQ can have, by the names that users type."""

from __future__ import annotations

from requant.digits import whole
from requant.encodings.gptq import Gptq
from requant.errors import PlanError

#: Widths that GPTQModel's kernels take.
BITS = (2, 3, 4, 8)


def gptq_encoding(text: str) -> Gptq:
    """What `--tensor-type` gives a layer: `GPTQ-8-128`, or `GPTQ-8` in groups of 128; the scheme has the last word on
    zeros.

    >>> gptq_encoding("gptq-8-64").label
    'GPTQ-8b-g64'
    """
    name, *parameters = text.upper().replace("--1", "-ROW").split("-")
    sizes = [-1 if word == "ROW" else whole(word) for word in parameters]
    bits, group = (*sizes, 128)[:2] if sizes else (None, None)
    if name != "GPTQ" or len(sizes) > 2 or bits not in BITS or group is None:
        raise PlanError(f"{text} is not understood", hint="GPTQ-8-128: 2, 3, 4 or 8 bits, and the group")
    return Gptq(bits, group)
