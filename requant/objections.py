"""What a reader does about a rule that is broken: it raises; `requant validate` notes it and reads on.

A rule that leaves nothing to read on with (a header that ends too early) is no matter of an objection: it is raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from requant.errors import Error

#: Called with the name of the rule (see `requant.validation.rules`) and the error that it is to whoever only reads.
#: When it returns, the reader goes on without what is wrong.
Objection = Callable[[str, Error], None]


def refuse(rule: str, error: Error) -> NoReturn:
    """The objection of every reader but one: the first rule that is broken ends the reading."""
    raise error
