"""Everything this package raises on purpose.

* Error                 (exit 1)  never raised itself
  - FormatError         (exit 2)  the file is not what its format promises
  - UnsupportedError    (exit 3)  the file is fine, this package cannot do it
  - PlanError           (exit 4)  the request cannot be carried out
  - VerifyError         (exit 5)  two checkpoints differ, or a runtime refused one

Bytes fed to a reader end in a checkpoint or in one of these; a message names the
file, the tensor and the byte, and `hint` the next move. Libraries never print and
never exit: the command line turns an `Error` into text and an exit code.
"""

from __future__ import annotations

from pathlib import Path


class Error(Exception):
    """Base of every error a user can act on."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class FormatError(Error):
    """The file breaks a rule of its format."""

    exit_code = 2

    def __init__(self, path: Path | str, message: str, *, offset: int | None = None, hint: str = "") -> None:
        where = f"{path}" if offset is None else f"{path}, byte {offset}"
        super().__init__(f"{where}: {message}", hint=hint)
        self.path = path
        self.offset = offset


class UnsupportedError(Error):
    """The file is valid, but this package does not implement it."""

    exit_code = 3


class PlanError(Error):
    """The request contradicts the checkpoint."""

    exit_code = 4


class VerifyError(Error):
    """A result is not what it should be, or a runtime refused it."""

    exit_code = 5
