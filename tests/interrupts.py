"""Processes that a test interrupts."""

import signal


def heed_interrupts() -> None:
    """In a child before it starts: signals end it even if the test run ignores them, in the background or by nohup."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
