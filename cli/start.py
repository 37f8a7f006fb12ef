"""The console script, to the moment when the command line is imported: Ctrl-C is seen to before that takes its time."""

from __future__ import annotations

import os
import sys

from requant.cli import interrupts

interrupts.install()


def main() -> None:
    """Run the command line; never returns."""
    if "--extract-lora" in sys.argv:
        # Its workers multiply at the same time. Threads of numpy's OpenBLAS for each of them would wait for each other,
        # which takes ten times as long on a machine that has other things to do; numpy asks this once, when imported.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from requant.cli.main import main

    main()
