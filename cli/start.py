"""The console script, to the moment when the command line is imported: Ctrl-C is seen to before that takes its time."""

from __future__ import annotations

from requant.cli import interrupts

interrupts.install()


def main() -> None:
    """Run the command line; never returns."""
    from requant.cli.main import main

    main()
