"""The same for `requant edit`, which writes into files that are there: every call fails, or is the last of the process.

    python -m tests.faults.editing [--every N] [--scenario NAME] [--kills]

Besides what `campaign` tries, a write is killed between any two pages that it touches. After every point:

* the file has its old head or its new one, byte for byte; or begins with zeros, so that gguf-py refuses it, and then
  the next requant that only reads there (`inspect`) leaves one of the two;
* what was said is true; no traceback; the same edit, made again, leaves the new file and nothing besides.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from tests.faults.campaign import (
    COUNT,
    KILL_AFTER,
    KILL_BEFORE,
    KILL_INSIDE,
    Point,
    Scenario,
    Stage,
    Tally,
    compiled,
    points,
)
from tests.faults.model import digests

LONG = "x" * 9000
KILLS = (KILL_BEFORE, KILL_AFTER, KILL_INSIDE)


@dataclass(frozen=True)
class Edit:
    """words: of the command. room: bytes reserved before. data: bytes of a tensor. shards: files. disk: no tmpfs."""

    name: str
    words: tuple[str, ...]
    room: int = 0
    data: int = 4096
    shards: int = 1
    disk: bool = False
    recover: bool = False


EDITS = (
    Edit("one page", ("--set", "a.number=8")),
    Edit("many pages", ("--set", f"a.text=str:{LONG}"), room=20_000),
    Edit("blocks before", ("--set", f"a.text=str:{LONG}"), data=2 << 20, disk=True),
    Edit("a copy", ("--set", f"a.text=str:{LONG}")),
    Edit("files of a split", ("--set", "a.number=8", "--rename-tensor", "t1=u1", "--rename-tensor", "t2=u2"), shards=3),
    Edit("many pages, recovered", ("--set", f"a.text=str:{LONG}"), room=20_000, recover=True),
    Edit("blocks before, recovered", ("--set", f"a.text=str:{LONG}"), data=2 << 20, disk=True, recover=True),
)


def write(folder: Path, edit: Edit) -> None:
    """A GGUF of an architecture that nobody knows; of a split model, a tensor in each file."""
    for n in range(edit.shards):
        name = f"model-{n + 1:05d}-of-{edit.shards:05d}.gguf" if edit.shards > 1 else "model.gguf"
        writer = gguf.GGUFWriter(folder / name, "nobody")
        if n == 0:
            writer.add_uint32("a.number", 7)
            writer.add_array("a.list", list(range(3000)))
        if edit.shards > 1:
            writer.add_uint16("split.no", n)
            writer.add_uint16("split.count", edit.shards)
            writer.add_int32("split.tensors.count", edit.shards)
        writer.add_tensor(f"t{n}", np.full(edit.data, n + 1, np.uint8).view(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


class EditStage(Stage):
    """A folder with a model that is made anew for every point."""

    def __init__(self, home: Path, edit: Edit) -> None:
        super().__init__(home, Scenario(edit.name, "model.gguf", recover=edit.recover))
        self.edit = edit

    @property
    def first(self) -> str:
        return "model.gguf" if self.edit.shards == 1 else f"model-00001-of-{self.edit.shards:05d}.gguf"

    def words(self, source: str = "", *more: str) -> list[str]:
        return ["edit", str(self.place / self.first), *self.edit.words, *more]

    def reading(self) -> list[str]:
        return ["inspect", str(self.place / self.first)]

    def prepare(self) -> None:
        for folder in (self.place, self.saved):
            shutil.rmtree(folder, ignore_errors=True)
        self.place.mkdir()
        write(self.place, self.edit)
        if self.edit.room:
            self.succeed(["edit", str(self.place / self.first), "--reserve", str(self.edit.room)])
        (self.place / "notes.txt").write_text("mine")
        self.old = digests(self.place)
        shutil.copytree(self.place, self.saved)
        self.succeed(self.words())
        self.new, self.foreign = digests(self.place), {}
        assert self.old != self.new and set(self.old) == set(self.new)
        self.tree = sorted(self.new)
        if self.edit.recover:
            self.break_off()

    def break_off(self) -> None:
        """Kill an edit in the middle of its longest write, and keep what that leaves."""
        self.reset()
        total = self.run(self.words(), Point("write", 1, COUNT))[2]["write"]
        for number in range(total, 0, -1):
            self.reset()
            self.run(self.words(), Point("write", number, KILL_INSIDE))
            if self.judge() == "between":
                break
        assert self.judge() == "between"
        shutil.rmtree(self.saved)
        shutil.move(self.place, self.saved)

    def reset(self) -> None:
        """As it was; a journal names the inodes of its folder and of the files."""
        super().reset()
        for journal in self.place.rglob("journal"):
            text = journal.read_text()
            for path in self.saved.glob("*.gguf"):
                text = text.replace(
                    f'"inode": {path.stat().st_ino},', f'"inode": {(self.place / path.name).stat().st_ino},'
                )
            journal.write_text(text)

    def judge(self) -> str:
        now = {name: value for name, value in digests(self.place).items() if ".partial/" not in name}
        now = {name: value for name, value in now.items() if not name.endswith(".partial")}
        if now in (self.old, self.new):
            return "old" if now == self.old else "new"
        strange = {name for name, value in now.items() if value not in (self.old.get(name), self.new.get(name))}
        if set(now) != set(self.old):
            return "between" if self.edit.shards > 1 and self.first not in now and not strange else "files are gone"
        if all((self.place / name).read_bytes()[:8] == bytes(8) for name in strange):
            for name in strange:
                try:
                    gguf.GGUFReader(self.place / name)
                    return "a mixture that loads"
                except ValueError:
                    pass
            return "between"
        return "a mixture"

    def _untrue(self, code: int, said: str, state: str) -> str:
        told = code > 0 and state == "between" and "may be neither old nor new" in said
        return "" if told else super()._untrue(code, said, state)

    def try_point(self, point: Point) -> tuple[str, str]:
        self.reset()
        recover = self.edit.recover
        code, said, _ = self.run(self.reading() if recover else self.words(), point)
        state = self.judge()
        wrong = self._untrue(code, said, state)
        killed = code == -signal.SIGKILL
        if not wrong and state == "between":
            again, text, _ = self.run(self.reading(), None)
            if self.judge() not in ("old", "new"):
                wrong = f"a reader left it {self.judge()} ({again}: {text})"
        if not wrong:
            is_new = self.judge() == "new"
            words = self.words()
            if is_new and self.edit.shards > 1:  # the names that it renames are there no more
                words = ["edit", str(self.place / self.first), *self.edit.words[:2]]
            again, text, _ = self.run(words, None)
            if again or self.judge() != "new":
                wrong = f"afterwards, exit code {again} and {self.judge()}: {text}"
            elif (
                tree := sorted(path.relative_to(self.place).as_posix() for path in self.place.rglob("*"))
            ) != self.tree:
                wrong = f"afterwards there were {set(tree) ^ set(self.tree)}"
        how = "killed" if killed else "done" if code == 0 else "refused"
        if wrong:
            wrong = f"{self.edit.name}: {point} ({self._hit()}): {wrong}; it said {said.strip()!r}"
        return f"{how}: {state}", wrong


def play(edit: Edit, home: Path, every: int, *, kills: bool = False) -> Tally:
    """All points of one scenario."""
    stage = EditStage(home, edit)
    stage.prepare()
    stage.reset()
    counts = stage.run(stage.reading() if edit.recover else stage.words(), Point("open", 1, COUNT))[2]
    tally = Tally()
    inside = [Point("write", number, KILL_INSIDE) for number in range(1, counts["write"] + 1)]
    tried = [point for point in points(counts, 1) + inside if not kills or point.action in KILLS]
    for point in tried[::every]:
        outcome, wrong = stage.try_point(point)
        tally.points += 1
        tally.kills += point.action in KILLS
        tally.outcomes[outcome] += 1
        if wrong:
            tally.faults.append(wrong)
    return tally


def warm_up(home: Path) -> None:
    """Have in this process what an edit imports, so that no fork has to."""
    from click.testing import CliRunner

    from requant.cli.main import cli

    home.mkdir()
    write(home, EDITS[0])
    for words in (["edit", str(home / "model.gguf"), *EDITS[0].words], ["inspect", str(home / "model.gguf")]):
        told = CliRunner().invoke(cli, words)
        assert told.exit_code == 0, told.output


def main() -> int:
    """Print the figures; 1 if anything is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--scenario", default="")
    parser.add_argument("--kills", action="store_true", help="no failures")
    asked = parser.parse_args()
    if "LD_PRELOAD" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            library = compiled(Path(folder))
            assert library is not None, "there is no C compiler"
            command = [sys.executable, "-m", "tests.faults.editing", *sys.argv[1:]]
            return subprocess.run(command, env={**os.environ, "LD_PRELOAD": str(library)}, check=False).returncode
    failed, total, kills = 0, 0, 0
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory() as disk, tempfile.TemporaryDirectory(dir=memory) as quick:
        warm_up(Path(quick) / "warm")
        for edit in EDITS:
            if asked.scenario in edit.name:
                home = Path(disk if edit.disk else quick).resolve()
                tally = play(edit, home, asked.every, kills=asked.kills)
                outcomes = ", ".join(f"{number} {outcome}" for outcome, number in sorted(tally.outcomes.items()))
                print(
                    f"{edit.name}: {tally.points} points, {tally.kills} kills, {len(tally.faults)} wrong ({outcomes})",
                    flush=True,
                )
                for fault in tally.faults[:20]:
                    print(f"  {fault}", flush=True)
                failed, total, kills = failed + len(tally.faults), total + tally.points, kills + tally.kills
    print(f"{total} points, {kills} kills, {failed} wrong")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
