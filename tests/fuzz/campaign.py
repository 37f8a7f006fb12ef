"""Many cases one after another, in this process, and a report: `python -m tests.fuzz.campaign --cases 1000000`.

Case `n` of a target is the same on every machine: its `random.Random` is seeded with both. `--only "config.json:1234"`
runs one case and lets its exception out. The process may use so much memory and each case so much time, so that a
defect that would eat the machine is found as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Final

from requant.errors import Error
from requant.printable import printable
from tests.fuzz.targets import TARGETS

#: Seconds of processor time for one case, and bytes of address space for all.
SECONDS: Final = 10.0
MEMORY: Final = 6 << 30


class TooLong(BaseException):
    """A case that took longer than `SECONDS`: no `Exception`, so that nothing on the way catches it."""


@dataclass
class Result:
    """What a campaign found. defects: the first case of each, by what was raised and where."""

    cases: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    defects: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)


def run(name: str, number: int, folder: Path) -> Error | None:
    """The case of that number; what it raised on purpose. Anything else comes out."""
    return attempt(name, Random(f"{name}:{number}"), folder)


def attempt(name: str, random: Random, folder: Path) -> Error | None:
    """The case that these choices make; what it raised on purpose. Anything else comes out."""
    target, _ = TARGETS[name]
    for left in folder.iterdir():
        left.unlink()
    try:
        target(random, folder)
    except Error as error:
        printable(f"{error} {error.hint}")
        return error
    return None


def campaign(cases: int, start: int = 0, only: str | None = None) -> Result:
    """`cases` cases, spread over all targets; those of numbers from `start` on."""
    result = Result()
    whole = sum(weight for _, weight in TARGETS.values())
    with bounded(), folder_in_memory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, (_, weight) in TARGETS.items():
            if only is not None and name != only:
                continue
            count = cases if only is not None else max(1, cases * weight // whole)
            for number in range(start, start + count):
                _one(name, number, folder, result)
    return result


def _one(name: str, number: int, folder: Path, result: Result) -> None:
    started = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        error = run(name, number, folder)
        if error is not None:
            result.errors[name] += 1
    except (Exception, TooLong) as error:
        kind = f"{name}: {type(error).__name__} in {_place(error)}"
        result.seen[kind] += 1
        result.defects.setdefault(kind, f"{name}:{number}\n{traceback.format_exc()}")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        taken = time.process_time() - started
        result.cases[name] += 1
        result.seconds[name] += taken  # type: ignore[assignment]
        result.slowest[name] = max(result.slowest.get(name, 0.0), taken)


def _place(error: BaseException) -> str:
    """The innermost line of requant that was running."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/tests/" not in frame.filename and "requant" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.name}:{frame.lineno}"


@contextmanager
def bounded() -> Iterator[None]:
    """So much address space for this process, and an alarm for `TooLong`."""

    def alarm(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGVTALRM, alarm)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if soft == resource.RLIM_INFINITY else min(soft, MEMORY), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder in memory, where there is such a place."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="requant-fuzz-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def report(result: Result) -> str:
    """The figures as a table of Markdown, and every defect."""
    lines = ["| what | cases | ended in an `Error` | defects | slowest case | seconds |", "|---|---|---|---|---|---|"]
    for name, count in result.cases.items():
        defects = sum(number for kind, number in result.seen.items() if kind.startswith(f"{name}: "))
        times = f"{result.slowest[name]:.2f} s | {result.seconds[name]:.0f}"
        lines.append(f"| {name} | {count:,} | {result.errors[name]:,} | {defects} | {times} |")
    total = f"{result.errors.total():,} | {result.seen.total()} | | {sum(result.seconds.values()):.0f}"
    lines.append(f"| all | {result.cases.total():,} | {total} |")
    for kind, text in result.defects.items():
        lines += ["", f"{kind} ({result.seen[kind]} times), first in {text}"]
    return "\n".join(lines)


def main() -> int:
    """Exit code 1 if there is a defect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--start", type=int, default=0, help="number of the first case of each target")
    parser.add_argument("--only", help='a target, or one case: "config.json:1234"')
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.only and asked.only not in TARGETS:
        name, _, number = asked.only.rpartition(":")
        with bounded(), folder_in_memory() as folder:
            print(run(name, int(number), folder))
        return 0
    result = campaign(asked.cases, asked.start, asked.only)
    print(json.dumps(dict(result.seen), indent=2) if asked.json else report(result))
    return 1 if result.defects else 0


if __name__ == "__main__":
    sys.exit(main())
