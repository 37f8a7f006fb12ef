"""Progress: of bytes, or of work in several stages, each with its bar."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def byte_bar(total: int, what: str, quiet: bool) -> tqdm[None]:
    """Bytes, rate and time left on stderr; it shows after half a second."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        unit="B",
        unit_scale=True,
        unit_divisor=1000,
        delay=0.5,
        disable=quiet or not sys.stderr.isatty(),
        desc=what,
        leave=False,
    )


@contextlib.contextmanager
def bars(quiet: bool) -> Iterator[Any]:
    """Progress on stderr, one bar for each stage; a stage of less than a second shows none."""
    from tqdm import tqdm

    shown: dict[str, Any] = {}

    def progress(stage: str, fraction: float) -> None:
        if stage not in shown:
            for bar in shown.values():
                bar.close()
            shown[stage] = tqdm(
                total=100,
                desc=stage,
                delay=1,
                leave=False,
                disable=quiet or not sys.stderr.isatty(),
                bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}",
            )
        shown[stage].update(100 * fraction - shown[stage].n)

    try:
        yield progress
    finally:
        for bar in shown.values():
            bar.close()
