"""Temporary folders that go with the process, however it ends: the command line does not wait for Python to."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Final

_made: Final[list[Path]] = []


def temporary_folder() -> Path:
    """A new one."""
    import tempfile

    _made.append(Path(tempfile.mkdtemp(prefix="requant-")))
    return _made[-1]


@atexit.register
def remove_temporary_folders() -> None:
    """All that were made."""
    if _made:
        import shutil

        while _made:
            shutil.rmtree(_made.pop(), ignore_errors=True)
