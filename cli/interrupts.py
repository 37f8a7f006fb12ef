"""Ctrl-C, kill, and a terminal that closes: each ends a command with one line that is true, and with exit code 130.

While there is nothing to clean up, during imports above all, the process ends at once, wherever it is: an exception
raised in the middle of an import may be swallowed there, or turned into another. Within `cleaning_up` it is a
`KeyboardInterrupt`, so that what is unfinished is removed on the way out; whoever is impatient then cannot stop that.

This module is imported before anything else, and imports next to nothing.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

CODE: Final = 130
_NAMES: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


class _State:
    installed = False
    cleaning = False
    came = False
    outcome = "nothing was changed"
    tell: Callable[[], None] = staticmethod(lambda: None)


def install() -> None:
    """From now on they end the process; those that are ignored, as nohup has it, stay ignored."""
    if _State.installed:
        return
    _State.installed = True
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    sys.unraisablehook = _not_swallowed


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Within, an interrupt is a `KeyboardInterrupt`: there is something to be removed on the way out."""
    _State.cleaning = True
    try:
        yield
    finally:
        _State.cleaning = _State.came  # an impatient second one finds the first still on its way


def completed() -> None:
    """The command has done what it was for: whatever ends it now, the new model is there."""
    _State.outcome = "the new model is complete"


def kept() -> None:
    """What is finished of the command is kept, should something end it."""
    _State.outcome = "nothing was changed; the same command goes on from here"


def on_end(tell: Callable[[], None]) -> None:
    """What is to be done besides saying the last line, when the process ends at once."""
    _State.tell = staticmethod(tell)


def came() -> bool:
    """Whether the command is ending because of an interrupt."""
    return _State.came


def last_line() -> str:
    """What is said at the end."""
    return f"interrupted; {_State.outcome}"


def _end(number: int, frame: object) -> None:
    if not _State.cleaning:
        break_line = b"\n" if os.isatty(2) else b""
        with suppress(Exception):  # standard output may be in the middle of something
            _State.tell()
            sys.stdout.flush()
            from requant.temporary import remove_temporary_folders  # not before: this module is the first of all

            remove_temporary_folders()
        os.write(2, break_line + last_line().encode() + b"\n")
        os._exit(CODE)
    if not _State.came:
        _State.came = True
        raise KeyboardInterrupt


def _not_swallowed(found: sys.UnraisableHookArgs) -> None:
    """An interrupt that came within a callback or a destructor, where no exception can leave, comes again."""
    if issubclass(found.exc_type, KeyboardInterrupt):
        from threading import Timer  # from another thread, and later: raised here, it would be lost again

        _State.came = False
        again = Timer(0.02, _thread.interrupt_main)
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(found)
