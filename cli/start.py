"""The console script, to the moment when the command line is imported: Ctrl-C is seen to before that takes its time."""

from __future__ import annotations

import gc
import os

from requant.cli import interrupts

interrupts.install()


def main() -> None:
    """Run the command line; never returns."""
    # What is imported and planned is a great many small objects that stay; to look them through again and again, as
    # Python does whenever 700 more are there, takes a fourteenth of the time that a plan does.
    gc.set_threshold(400_000, 20, 20)
    # Nothing here multiplies matrices but in threads of its own, which would wait for those that numpy's OpenBLAS
    # starts for each of them, ten times as long on a machine that has other things to do. To start them takes the
    # processor as long as the rest of numpy; and no sum depends on their number. numpy asks this once, when imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from requant.cli.main import main

    main()
