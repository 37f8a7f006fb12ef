"""Numbers that must not enter a file silently: NaN, infinities, and what a half cannot hold.

Blocks are looked at as `ggml_validate_row_data` of ggml does, and refused where llama-quantize gives up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes
from requant.encodings import F16, Blocks, Dense, Encoding, columns_of
from requant.errors import Error, FormatError, PlanError
from requant.plan import Step
from requant.sources import Bytes, FileSlice

#: dtype label -> (unsigned view, bits of the exponent, that are all ones in NaN and infinity).
_EXPONENT: Final = {"F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F800000)}

_DAMAGED: Final = "the model is damaged; --replace-nan 0 converts it all the same"
_COMPUTED: Final = "it is computed: what it is made of is damaged, or the numbers that say how are too large for it"
_ONE: Final = 0x7C00
_TWO: Final = 0x7C007C00
#: From and to which byte of a block its halves stand, a scale or a scale and a minimum, and their exponents there.
#: MXFP4 and IQ1_M have others.
_HALVES: Final = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "Q1_0", "Q2_0"), (0, 2, _ONE)),
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"), (0, 2, _ONE)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 4, _TWO)),
    "Q2_K": (80, 84, _TWO),
    "Q3_K": (108, 110, _ONE),
    "Q6_K": (208, 210, _ONE),
    "TQ1_0": (52, 54, _ONE),
    "TQ2_0": (64, 66, _ONE),
}


def float_bits(encoding: Encoding) -> str | None:
    """The dtype label of dense floats, whose bits tell NaN and infinity; None for everything else."""
    return encoding.label if isinstance(encoding, Dense) and encoding.label in _EXPONENT else None


def check_values(step: Step, start: int, values: NDArray[np.float32], replacement: float | None) -> int:
    """Look at a run of float32 rows before it is encoded; the number of values replaced.

    `replacement` None: NaN and infinities raise `FormatError`. A finite value too large for a half raises
    `PlanError` when the target is F16.
    """
    from requant.kernels_cpu.checks import HALF_OVERFLOW, beyond  # numba, which only the doing of a plan may import

    narrow = step.target.encoding == F16
    if beyond(values, HALF_OVERFLOW if narrow else np.inf) is None:  # one pass at the memory's speed finds all
        return 0
    bad = ~np.isfinite(values)
    count = int(bad.sum())
    if count:
        if replacement is None:
            raise _not_finite(step, start, bad, values)
        values[bad] = replacement
    if narrow and beyond(values) is not None:
        raise _overflow(step, start, values)
    return count


def check_bits(step: Step, start: int, data: Bytes, dtype: str, replacement: float | None) -> int:
    """The same for encoded dense rows that are only moved."""
    view, exponent = _EXPONENT[dtype]
    bits = data.view(view)
    if not bits.size or _is_finite(bits, exponent):
        return 0
    bad = (bits & exponent) == exponent
    if replacement is None:
        wide = bits.view("<f2") if dtype == "F16" else bits.astype("<u4") << 16 if dtype == "BF16" else bits
        values = wide.view("<f4") if dtype != "F16" else wide.astype(np.float32)
        columns = columns_of(step.target.shape)
        raise _not_finite(step, start, bad.reshape(-1, columns), values.reshape(-1, columns))
    narrow = np.float32(replacement)
    bits[bad] = (
        narrow.astype(np.float16).view("<u2") if dtype == "F16" else narrow.view("<u4") >> (32 - 8 * bits.itemsize)
    )
    return int(bad.sum())


def _is_finite(bits: NDArray[np.unsignedinteger[Any]], exponent: int) -> bool:
    """Whether none of some floats, as their bits, is infinite or NaN: the largest of either sign tells, which takes no
    memory to find. exponent: all its bits."""
    sign = 1 << 8 * bits.itemsize - 1
    positive = int(bits.view(bits.dtype.str.replace("u", "i")).max())  # negative if all are
    return positive < exponent and int(bits.max()) < sign | exponent


def check_scales(step: Step, start: int, codes: Codes, replacement: float | None) -> int:
    """The same for rows that are carried over as integers, whose scales and offsets may be no numbers.

    There is a code for 0 under every scale, and for no other replacement.
    """
    columns = columns_of(step.target.shape)
    bad = ~np.isfinite(codes.scales * codes.whole)
    if codes.offsets is not None:
        bad |= ~np.isfinite(codes.offsets)
    if not bad.any():
        return 0
    groups = np.arange(columns) * bad.shape[1] // columns if codes.groups is None else codes.groups
    if replacement != 0:
        row, group = (int(i) for i in np.argwhere(bad)[0])
        raise FormatError(
            _path(step),
            f"tensor {_source_name(step)!r}: the scale of {_index(step, start + row, int((groups == group).argmax()))} "
            f"is {codes.scales[row, group] * codes.whole}; {int(bad.sum())} scales in these {len(bad)} rows are no "
            "numbers",
            hint="the model is damaged; --replace-nan 0 converts it all the same",
        )
    lost = bad[:, groups]
    codes.codes[lost] = codes.zeros[:, groups][lost] if codes.zeros.size else 0
    codes.scales[bad], codes.whole = 1, codes.whole if np.isfinite(codes.whole) else 1.0
    if codes.offsets is not None:
        codes.offsets[bad] = 0
    return int(lost.sum())


def check_blocks(step: Step, start: int, data: NDArray[np.uint8]) -> int:
    """Look at a run of rows that were just encoded, and sum them up on the way: their `checksum`.

    Values too large for the scale of their block raise `PlanError`.
    """
    from requant.kernels_cpu.checks import summed

    encoding, flat = cast(Blocks, step.target.encoding), data.reshape(-1)
    if encoding.label in _HALVES:
        first, last, _ = _HALVES[encoding.label]
        found, suspect = summed(flat, encoding.nbytes, (first + 1, last - 1))
    else:
        found, suspect = summed(flat)[0], True
    bad = _without_scale(encoding, data) if suspect else None
    if bad is not None:
        raise PlanError(
            f"{_path(step)}: tensor {_source_name(step)!r}: {_block(step, start, bad)} begins a block whose scale "
            f"{encoding.label} cannot hold: values or importances are too large",
            hint="keep the tensor dense, such as --tensor-type NAME=BF16",
        )
    return found


def check_copied_blocks(step: Step, start: int, data: NDArray[np.uint8], replacement: float | None) -> int:
    """The same for blocks that are only moved; a block of zeros takes the place of a bad one, if 0 is what shall."""
    bad = _without_scale(step.target.encoding, data)
    if bad is None:
        return 0
    encoding = cast(Blocks, step.target.encoding)
    if replacement != 0:
        raise FormatError(
            _path(step),
            f"tensor {_source_name(step)!r}: {_block(step, start, bad)} begins a block whose scale is no number, one "
            f"of {int(bad.sum())} such in these rows",
            hint="the model is damaged; --replace-nan 0 converts it all the same",
        )
    data.reshape(-1, encoding.nbytes)[bad] = 0  # in every type that is zero
    return int(bad.sum()) * encoding.values


def _without_scale(encoding: Encoding, data: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Which blocks have a scale that is infinite or NaN; None if none has."""
    if not isinstance(encoding, Blocks) or encoding.label == "NVFP4":  # all the bytes that scale NVFP4 are numbers
        return None
    exponents, last = _exponents(encoding, data.reshape(-1, encoding.nbytes))
    if not exponents.size or int(exponents.max()) != last:
        return None
    bad: NDArray[np.bool_] = (exponents == last).reshape(len(exponents), -1).any(1)
    return bad


def _block(step: Step, start: int, bad: NDArray[np.bool_]) -> str:
    values = cast(Blocks, step.target.encoding).values
    row, block = divmod(int(bad.argmax()), columns_of(step.target.shape) // values)
    return _index(step, start + row, block * values)


def _exponents(encoding: Blocks, blocks: NDArray[np.uint8]) -> tuple[NDArray[np.integer[Any]], int]:
    """Exponents of the scales of blocks [blocks, bytes], and which of them stands for infinity and NaN."""
    if encoding.label == "MXFP4":
        return blocks[:, 0], 255
    if encoding.label == "IQ1_M":  # the half is cut into four
        words = blocks[:, 48:].view("<u2")
        return words[:, 3] & 0x7000 | words[:, 2] >> 4 & 0x0C00, 0x7C00
    first, last, mask = _HALVES[encoding.label]
    return (blocks[:, first:last].view(f"<u{last - first}") & mask).view("<u2"), 0x7C00


def _not_finite(step: Step, start: int, bad: NDArray[np.bool_], values: NDArray[Any]) -> Error:
    row, column = (int(i) for i in np.argwhere(bad)[0])
    nan = int(np.isnan(values[bad]).sum())
    return FormatError(
        _path(step),
        f"tensor {_source_name(step)!r}: {_index(step, start + row, column)} is {values[row, column]}; "
        f"{nan} NaN and {int(bad.sum()) - nan} infinite values in these {len(values)} rows",
        hint=_DAMAGED if step.values.origin(0) is not None else _COMPUTED,
    )


def _overflow(step: Step, start: int, values: NDArray[np.float32]) -> Error:
    from requant.kernels_cpu.checks import HALF_OVERFLOW

    row, column = (int(i) for i in np.argwhere(np.abs(values) >= HALF_OVERFLOW)[0])
    return PlanError(
        f"{_path(step)}: tensor {_source_name(step)!r}: {_index(step, start + row, column)} is "
        f"{values[row, column]:g}, which F16 cannot hold (at most 65504)",
        hint="convert to BF16 or F32",
    )


def _index(step: Step, row: int, column: int) -> str:
    """The value's index in the target tensor, row-major."""
    index = [column]
    for size in reversed(step.target.shape[:-1]):
        row, here = divmod(row, size)
        index.insert(0, here)
    return f"value {index}"


def _source_name(step: Step) -> str:
    return step.inputs[0].name if len(step.inputs) == 1 else step.target.name


def _path(step: Step) -> Path:
    for source in step.inputs[0].sources.values():
        if isinstance(source, FileSlice):
            return source.path
    return Path("(made by the plan)")
