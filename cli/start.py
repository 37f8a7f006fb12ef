"""The console script, to the moment when the command line is imported: Ctrl-C is seen to before that takes its time."""

from __future__ import annotations

import gc
import os
import sys

from requant.cli import interrupts

interrupts.install()


def main() -> None:
    """Run the command line; never returns."""
    # What is imported and planned is a great many small objects that stay; to look them through again and again, as
    # Python does whenever 700 more are there, takes a fourteenth of the time that a plan does.
    gc.set_threshold(100_000, 20, 20)
    if "--extract-lora" in sys.argv:
        # Its workers multiply at the same time. Threads of numpy's OpenBLAS for each of them would wait for each other,
        # which takes ten times as long on a machine that has other things to do; numpy asks this once, when imported.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from requant.cli.main import main

    main()
