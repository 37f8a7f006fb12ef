"""Processes that a test interrupts."""

import signal


def heed_interrupts() -> None:
    """In a child before it starts: Ctrl-C ends it even if the test run ignores it, as one in the background does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
