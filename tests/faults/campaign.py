"""Every call that touches a file fails once, fails from then on, or is the last that the process makes.

    python -m tests.faults.campaign [--every N] [--scenario NAME]

A library (faults.c) is compiled with the system's C compiler and preloaded. One process imports requant and makes each
conversion once, to count its calls by kind; then, for every call of every kind and every way to fail, a fork of that
process makes the conversion with that one call failing or killed, and what lies on the disk is judged:

* the destination is the old model, whole, or the new one, whole. Where a journal gives the names, a killed process may
  leave something in between; then what is there is of one model only, lacks the file without which nothing loads, and
  is whole as soon as requant reads or writes there;
* what is said is true: exit code 0 means new, "nothing was changed" old, "the new model is complete" new; no traceback;
* files of others in the folder are untouched;
* after a second run without faults the new model is there, and nothing else: no partial file, no staging folder.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.model import digests, write_model

KINDS = ("open", "read", "write", "sync", "reserve", "rename", "link", "unlink", "mkdir", "close", "mode", "stat")
COUNT, FAIL, FAIL_ON, KILL_BEFORE, KILL_AFTER, KILL_INSIDE = range(6)
#: How a call of each kind fails, as disks, full disks and administrators have it.
ERRORS = {
    "open": ("EIO", "EACCES", "ENOSPC", "EMFILE"),
    "write": ("EIO", "ENOSPC"),
    "reserve": ("EIO", "ENOSPC"),
    "rename": ("EIO", "EACCES", "ENOSPC", "EXDEV"),
    "link": ("EIO", "EPERM"),
    "mkdir": ("EIO", "EACCES", "ENOSPC"),
    "mode": ("EPERM",),
}
SPLIT = ("--max-shard-tensors", "3")


@dataclass(frozen=True)
class Scenario:
    """One way to publish a model. replaced: what is there before; files: what lies there and is not the model's."""

    name: str
    destination: str
    options: tuple[str, ...] = ()
    force: bool = False
    foreign: tuple[str, ...] = ()
    inside: bool = False  # run with the destination as the current folder
    exchange: bool = True
    recover: bool = False  # an earlier run was killed between two renames; the command reads there

    @property
    def folder(self) -> bool:
        return "." not in self.destination


SCENARIOS = (
    Scenario("one file, new", "out.gguf"),
    Scenario("one file, replaced", "out.gguf", force=True),
    Scenario("split GGUF, new", "out.gguf", SPLIT, foreign=("notes.txt",)),
    Scenario("split GGUF, replaced", "out.gguf", SPLIT, force=True, foreign=("notes.txt",)),
    Scenario("split safetensors, replaced", "out.safetensors", SPLIT, force=True, foreign=("notes.txt",)),
    Scenario("folder, new", "out", SPLIT),
    Scenario("folder, replaced", "out", SPLIT, force=True, foreign=("notes.txt", "sub/mine.txt")),
    Scenario("folder, no exchange", "out", SPLIT, force=True, foreign=("notes.txt", "sub/mine.txt"), exchange=False),
    Scenario("folder, current", "out", SPLIT, force=True, foreign=("notes.txt", "sub/mine.txt"), inside=True),
    Scenario("split GGUF, recovered", "out.gguf", SPLIT, force=True, foreign=("notes.txt",), recover=True),
    Scenario("folder, recovered", "out", SPLIT, force=True, foreign=("notes.txt",), inside=True, recover=True),
)


@dataclass(frozen=True)
class Point:
    """One call, and what becomes of it."""

    kind: str
    number: int
    action: int
    error: str = "EIO"

    def __str__(self) -> str:
        how = {
            FAIL: f"fails with {self.error}",
            FAIL_ON: f"and all after it fail with {self.error}",
            KILL_BEFORE: "is the place of a kill",
            KILL_AFTER: "is the last before a kill",
            KILL_INSIDE: "is killed in its middle",
        }
        return f"{self.kind} {self.number} {how[self.action]}"


@dataclass
class Tally:
    """What the points of a scenario came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    points: int = 0
    kills: int = 0


class Stage:
    """A folder with the sources, and a place that is made anew for every point."""

    def __init__(self, home: Path, scenario: Scenario) -> None:
        self.home, self.scenario = home, scenario
        self.place = home / "place"
        self.saved = home / "saved"
        self.old, self.new = {}, {}

    @property
    def model(self) -> Path:
        """Where the model's files lie."""
        return self.place / "out" if self.scenario.folder else self.place

    def words(self, source: str, *more: str) -> list[str]:
        """The command."""
        how = ["--to", "F16", "--threads", "1", "--quiet", *self.scenario.options, *more]
        destination = "." if self.scenario.inside else str(self.place / self.scenario.destination)
        return ["convert", str(self.home / source), destination, *how]

    def reading(self) -> list[str]:
        """The command that only reads."""
        first = next(iter(sorted(name for name in self.new if name.endswith(".gguf"))), "")
        return ["inspect", "." if self.scenario.inside else str(self.model / first)]

    def prepare(self) -> None:
        """Old, new, and how it looks before every point."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.rmtree(self.saved, ignore_errors=True)
        self.model.mkdir(parents=True)
        for name in self.scenario.foreign:
            (self.model / name).parent.mkdir(parents=True, exist_ok=True)
            (self.model / name).write_text(name)
        before = set(digests(self.model))
        self.succeed(self.words("one", "--force"))
        if self.scenario.folder and self.scenario.force:
            (self.model / "quantize_config.json").write_text("{}")  # of the old model, and to go with it
        self.old = {name: value for name, value in digests(self.model).items() if name not in before}
        self.foreign = {name: value for name, value in digests(self.model).items() if name in before}
        old = self.home / "old"
        shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(self.place, old, symlinks=True)
        self.succeed(self.words("two", "--force"))
        self.new = {name: value for name, value in digests(self.model).items() if name not in before}
        self.tree = sorted(path.relative_to(self.place).as_posix() for path in self.place.rglob("*"))
        if self.scenario.force:
            old.rename(self.saved)
        else:
            self.old = {}
            self.saved.mkdir()
            for name in self.scenario.foreign:
                shutil.copy(self.place / name, self.saved / name)
            shutil.rmtree(old)
        if self.scenario.recover:
            self.break_off()

    def break_off(self) -> None:
        """Kill a conversion between two renames, and keep what that leaves."""
        self.reset()
        total = self.run(self.words("two", "--force"), Point("rename", 1, COUNT))[2]["rename"]
        self.reset()
        self.run(self.words("two", "--force"), Point("rename", total - len(self.new) // 2, KILL_AFTER))
        assert self.judge() == "between", self.judge()
        shutil.rmtree(self.saved)
        shutil.copytree(self.place, self.saved, symlinks=True)

    def reset(self) -> None:
        """As it was; a staging folder's journal names its inode, which a copy has not."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.saved, self.place, symlinks=True)
        for journal in self.place.rglob("journal"):
            text = journal.read_text()
            before = text[text.index('"folder": ') + 10 :].split(",")[0]
            journal.write_text(text.replace(f'"folder": {before},', f'"folder": {journal.parent.stat().st_ino},'))

    def succeed(self, words: list[str]) -> None:
        """Run without faults."""
        code, said, _ = self.run(words, None)
        assert code == 0, said

    def run(self, words: list[str], point: Point | None) -> tuple[int, str, dict[str, int]]:
        """A fork makes the conversion: its exit code or minus its signal, what it said, the calls by kind."""
        self.model.mkdir(parents=True, exist_ok=True) if self.scenario.inside else None
        said, counted = self.home / "said", self.home / "counted"
        child = os.fork()
        if not child:
            self._child(words, point, said, counted)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        numbers = dict(zip(KINDS, map(int, counted.read_text().split()), strict=True)) if counted.exists() else {}
        counted.unlink(missing_ok=True)
        return code, said.read_text(), numbers

    def _child(self, words: list[str], point: Point | None, said: Path, counted: Path) -> None:
        from requant import system
        from requant.cli import main

        text = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(text, 1)
        os.dup2(text, 2)
        hits = os.open(self.home / "hit", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        if not self.scenario.exchange:
            system.exchange = lambda one, other: False
        if self.scenario.inside:
            os.chdir(self.model)
        sys.argv = ["requant", *words]
        if point is not None:
            arguments = (KINDS.index(point.kind), point.number, point.action, getattr(errno, point.error), hits)
            library.fault_arm.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_long, *(ctypes.c_int,) * 3)
            library.fault_count.restype = ctypes.c_long
            leave = os._exit

            def counting(code: int) -> None:
                numbers = [library.fault_count(kind) for kind in range(len(KINDS))]
                counted.write_text(" ".join(map(str, numbers)))
                leave(code)

            if point.action == COUNT:
                os._exit = counting
            library.fault_arm(f"{self.home}/".encode(), *arguments)
        try:
            main.main()
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(99)

    def judge(self) -> str:
        """What lies there: old, new, between, or what is wrong."""
        now = digests(self.model) if self.model.is_dir() else {}
        if self.foreign.items() - now.items():
            return "a file of others is gone or changed"
        seen = {name: value for name, value in now.items() if name in self.old or name in self.new}
        if seen in (self.old, self.new):
            return "old" if seen == self.old else "new"
        if seen.items() <= self.old.items() or seen.items() <= self.new.items():
            keys = ("config.json", "out.safetensors.index.json", "out-00001-of-00004.gguf")
            return "a part that loads" if any(key in seen for key in keys) else "between"
        return "a mixture"

    def try_point(self, point: Point) -> tuple[str, str]:
        """What the point came to, and what is wrong with it, if anything is."""
        self.reset()
        recover = self.scenario.recover
        words = self.reading() if recover else self.words("two", *(["--force"] if self.scenario.force else []))
        code, said, _ = self.run(words, point)
        state = self.judge()
        wrong = self._untrue(code, said, state)
        killed = code == -signal.SIGKILL
        left = sorted(path.name for path in self.place.rglob("*.partial"))
        if not wrong and state == "between" and self.new:
            again, words_again, _ = self.run(self.reading(), None)
            if self.judge() not in ("old", "new"):
                wrong = f"a reader left it {self.judge()} ({again}: {words_again})"
        if not wrong:
            again, text, _ = self.run(self.words("two", "--force"), None)
            tree = sorted(path.relative_to(self.place).as_posix() for path in self.place.rglob("*"))
            if again or self.judge() != "new":
                wrong = f"afterwards, exit code {again} and {self.judge()}: {text}"
            elif tree != self.tree:
                wrong = f"afterwards there were {set(tree) ^ set(self.tree)}"
        how = "killed" if killed else "done" if code == 0 else "refused"
        leaves = " with leftovers" if left and not killed and not recover else ""
        if wrong:
            wrong = f"{self.scenario.name}: {point} ({self._hit()}): {wrong}; it said {said.strip()!r}"
        return f"{how}: {state}{leaves}", wrong

    def _untrue(self, code: int, said: str, state: str) -> str:
        if "Traceback" in said or code == 99:
            return "a traceback"
        if state not in ("old", "new", "between"):
            return state
        if code == -signal.SIGKILL:
            return ""
        if code < 0:
            return f"signal {-code}"
        if self.scenario.recover:
            return "" if code or state in ("old", "new") else "read, and still between"
        promised = "new" if not code or "the new model is complete" in said else "old"
        if "may hold only a part" in said:
            return ""
        return "" if state == promised else f"exit code {code}, and it is {state}"

    def _hit(self) -> str:
        return (self.home / "hit").read_text()


def points(counts: dict[str, int], every: int) -> list[Point]:
    """Every `every`-th of all that there are."""
    found = [
        Point(kind, number, action, error)
        for kind, count in counts.items()
        for number in range(1, count + 1)
        for action, errors in (
            (FAIL, ERRORS.get(kind, ("EIO",))),
            (FAIL_ON, ("EIO",)),
            (KILL_BEFORE, ("EIO",)),
            (KILL_AFTER, ("EIO",)),
        )
        for error in errors
    ]
    return found[::every]


def play(scenario: Scenario, home: Path, every: int) -> Tally:
    """All points of one scenario."""
    stage = Stage(home, scenario)
    stage.prepare()
    stage.reset()
    words = stage.reading() if scenario.recover else stage.words("two", *(["--force"] if scenario.force else []))
    counts = stage.run(words, Point("open", 1, COUNT))[2]
    tally = Tally()
    for point in points(counts, every):
        outcome, wrong = stage.try_point(point)
        tally.points += 1
        tally.outcomes[outcome] += 1
        if wrong:
            tally.faults.append(wrong)
    return tally


def warm_up(home: Path) -> None:
    """Have in this process what a conversion imports and compiles, so that no fork has to."""
    from requant import FORMATS, Request, execute, formats, plan_conversion
    from requant.cli import convert, inspect
    from requant.execution import Options

    assert convert and inspect
    for format_name, name in (("gguf", "warm.gguf"), ("safetensors", "warm")):
        checkpoint = formats.open(home / "one")
        execute(plan_conversion(checkpoint, FORMATS[format_name], home / name, Request("F16")), Options(1))
    formats.open(home / "warm.gguf")


def compiled(folder: Path) -> Path | None:
    """The library, or None where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    target = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", target, source, "-ldl"], check=True)
    return target


def main() -> int:
    """Print the figures; 1 if anything is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--scenario", default="")
    asked = parser.parse_args()
    if "LD_PRELOAD" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            library = compiled(Path(folder))
            assert library is not None, "there is no C compiler"
            command = [sys.executable, "-m", "tests.faults.campaign", *sys.argv[1:]]
            return subprocess.run(command, env={**os.environ, "LD_PRELOAD": str(library)}, check=False).returncode
    failed, total = 0, 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        home = Path(folder).resolve()
        write_model(home / "one", 1)
        write_model(home / "two", 2)
        warm_up(home)
        for scenario in SCENARIOS:
            if asked.scenario in scenario.name:
                tally = play(scenario, home, asked.every)
                outcomes = ", ".join(f"{number} {outcome}" for outcome, number in sorted(tally.outcomes.items()))
                print(f"{scenario.name}: {tally.points} points, {len(tally.faults)} wrong ({outcomes})", flush=True)
                for fault in tally.faults[:20]:
                    print(f"  {fault}", flush=True)
                failed, total = failed + len(tally.faults), total + tally.points
    print(f"{total} points, {failed} wrong")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
