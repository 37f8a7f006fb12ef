"""In what rows can be handed on."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Flag
from typing import Any, Final

import numpy as np

from requant.encodings import Dense, Encoding


class Form(Flag):
    """What rows are on their way from files to a file; several together: all the forms that a node has.

    BYTES: the stored bytes of the target's encoding, uint8 [rows, bytes of a row]. CODES: integers and their scales
    (`Codes`). HALVES: numbers of the target's 16-bit dtype as their bits, uint16 [rows, columns]. VALUES: float32
    [rows, columns].
    """

    VALUES = 1
    HALVES = 2
    CODES = 4
    BYTES = 8

    @property
    def strongest(self) -> Form:
        """The one of these forms in which the least is done to the numbers.

        >>> (Form.VALUES | Form.CODES).strongest
        <Form.CODES: 4>
        """
        return next(form for form in (Form.BYTES, Form.CODES, Form.HALVES, Form.VALUES) if form in self)


#: Forms as arrays: those that a node fills in. Codes come with arrays of their own.
DTYPES: Final[Mapping[Form, np.dtype[Any]]] = {
    Form.BYTES: np.dtype("u1"),
    Form.HALVES: np.dtype("<u2"),
    Form.VALUES: np.dtype("<f4"),
}


def is_half(encoding: Encoding) -> bool:
    """Whether the numbers of an encoding are 16-bit floats as they are stored."""
    return isinstance(encoding, Dense) and encoding.label in ("F16", "BF16")
