"""Conversions that go on where an earlier process was killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from requant.encodings import F16, F32
from requant.errors import FormatError, PlanError
from requant.execution import Options, execute
from requant.expressions import Stored
from requant.ir import Tensor, TensorSpec
from requant.layout import Layout, OutputFile
from requant.plan import Plan, Step
from requant.run_journal import Beginning, Outcome, RunJournal, checksum
from requant.sources import FileSlice, Identity, Memory
from tests.faults.model import digests
from tests.interrupts import heed_interrupts
from tests.tiny_folder import write_tiny_folder

ROOT = Path(__file__).parents[1]


class Broken(Exception):
    pass


@dataclass
class Breaks:
    """Bytes that can be read so many times."""

    data: bytes
    _left: int
    _reads: int = 0

    @property
    def nbytes(self):
        return len(self.data)

    @property
    def reads(self):
        return self._reads

    def read_into(self, start, out):
        if self._left == 0:
            raise Broken
        self._left -= 1
        self._reads += 1
        out[...] = np.frombuffer(self.data, np.uint8, out.size, start)


SHAPE = (4096, 1024)


def plan_of(folder, source, shape=SHAPE, encoding=F16, files=1):
    steps, outputs = [], []
    for number in range(files):
        name = f"t{number}"
        steps.append(Step(Stored(Tensor(name, shape, F32, {"data": source})), TensorSpec(name, shape, encoding)))
        size = 100 + steps[-1].target.nbytes
        outputs.append(OutputFile(f"out{number}.bin", b"HEAD", size, {(name, "data"): 100}))
    return Plan(tuple(steps), Layout(folder, tuple(outputs)))


VALUES = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def source(times=-1):
    return Breaks(VALUES.tobytes(), times)


@pytest.mark.parametrize("files", [1, 3])
def test_what_is_finished_is_not_done_again(tmp_path, files):
    once = tmp_path / "once"
    execute(plan_of(once, source(), files=files))
    total = source()
    execute(plan_of(tmp_path / "counted", total, files=files))
    model = tmp_path / "model"
    with pytest.raises(Broken):
        execute(plan_of(model, source(5), files=files), Options(1), resume=True)
    assert not model.exists() or not list(model.glob("*.bin"))
    again = source()
    receipt = execute(plan_of(model, again, files=files), Options(2), resume=True)
    assert again.reads == total.reads - 5 and receipt.resumed > 0
    assert digests(model) == digests(once)
    assert not list(tmp_path.rglob("*.partial"))


def test_without_it_nothing_is_kept_and_all_begins_anew(tmp_path):
    with pytest.raises(Broken):
        execute(plan_of(tmp_path, source(5)), Options(1))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Broken):
        execute(plan_of(tmp_path, source(5)), Options(1), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out0.bin.partial"]
    again = source()
    assert execute(plan_of(tmp_path, again), Options(1)).resumed == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out0.bin"]


def broken_off(folder, plan):
    with pytest.raises(Broken):
        execute(plan, Options(1), resume=True)
    return folder / "out0.bin.partial"


@pytest.mark.parametrize("damage", ["a run", "a record", "the last record", "the beginning"])
def test_what_was_damaged_is_done_again(tmp_path, damage):
    execute(plan_of(tmp_path / "once", source()))
    partial = broken_off(tmp_path, plan_of(tmp_path, source(5)))
    size = 100 + 2 * VALUES.size
    where = {"a run": 4000, "a record": partial.stat().st_size - 60, "the beginning": size + 30}
    with partial.open("r+b") as file:
        if damage == "the last record":
            file.truncate(partial.stat().st_size - 7)
        else:
            file.seek(where[damage])
            byte = file.read(1)
            file.seek(where[damage])
            file.write(bytes([byte[0] ^ 1]))
    if damage == "the beginning":
        with pytest.raises(PlanError, match="begun by another conversion"):
            execute(plan_of(tmp_path, source()), Options(1), resume=True)
        return
    again = source()
    execute(plan_of(tmp_path, again), Options(1), resume=True)
    assert again.reads == 4096 // 512 - 4
    assert (tmp_path / "out0.bin").read_bytes() == (tmp_path / "once" / "out0.bin").read_bytes()


@pytest.mark.parametrize("damaged", [False, True])
def test_copies_are_compared_with_what_they_are_copied_from(tmp_path, damaged):
    """Their records have no checksum: what is to be there is read again."""
    execute(plan_of(tmp_path / "once", source(), encoding=F32))
    partial = broken_off(tmp_path, plan_of(tmp_path, source(5), encoding=F32))
    if damaged:
        with partial.open("r+b") as file:
            file.seek(4000)
            byte = file.read(1)
            file.seek(4000)
            file.write(bytes([byte[0] ^ 1]))
    receipt = execute(plan_of(tmp_path, source(), encoding=F32), Options(1), resume=True)
    assert receipt.resumed == (5 - damaged) * (4 << 20) // 2
    assert (tmp_path / "out0.bin").read_bytes() == (tmp_path / "once" / "out0.bin").read_bytes()


@pytest.mark.parametrize("change", ["type", "value", "options"])
def test_another_conversion_is_refused(tmp_path, change):
    partial = broken_off(tmp_path, plan_of(tmp_path, source(5)))
    before = partial.read_bytes()
    plan, options = plan_of(tmp_path, source()), Options(1)
    if change == "type":
        plan = plan_of(tmp_path, source(), encoding=F32)
    elif change == "value":
        plan = plan_of(tmp_path, Memory(VALUES.tobytes()))
    else:
        options = Options(1, replace_nan=0.0)
    with pytest.raises(PlanError, match=r"out0\.bin\.partial was begun by another conversion") as refused:
        execute(plan, options, resume=True)
    assert "without --resume" in refused.value.hint
    assert partial.read_bytes() == before


def test_an_input_that_has_changed_is_named(tmp_path):
    path = tmp_path / "in.safetensors"
    path.write_bytes(VALUES.tobytes())

    def plan():
        return plan_of(tmp_path / "o", FileSlice(path, 0, VALUES.nbytes, Identity.of(path.stat())))

    first = plan()
    reads = []

    class Halting:
        file = first.steps[0].inputs[0].sources["data"]
        nbytes = VALUES.nbytes

        def read_into(self, start, out):
            if len(reads) == 3:
                raise Broken
            reads.append(start)
            self.file.read_into(start, out)

    with pytest.raises(Broken):
        execute(plan_of(tmp_path / "o", Halting()), Options(1), resume=True)
    time.sleep(0.02)
    path.write_bytes(VALUES.tobytes())

    class Whole(Halting):
        file = plan().steps[0].inputs[0].sources["data"]

    Whole.__qualname__ = Halting.__qualname__
    with pytest.raises(PlanError, match=r"in\.safetensors: it has changed since .*out0\.bin\.partial was begun"):
        execute(plan_of(tmp_path / "o", Whole()), Options(1), resume=True)
    assert (tmp_path / "o" / "out0.bin.partial").exists()


def test_a_checksum_tells_bytes_apart():
    data = np.random.default_rng(1).integers(0, 256, 3 * 4096 + 77).astype(np.uint8)
    said = checksum(data)
    for at in (0, 4095, 4096, 9000, data.size - 1):
        other = data.copy()
        other[at] ^= 0x40
        assert checksum(other) != said
    swapped = np.concatenate([data[4096:8192], data[:4096], data[8192:]])
    assert len({said, checksum(swapped), checksum(data[:-1]), checksum(np.zeros_like(data))}) == 4
    assert checksum(data) == said == checksum(memoryview(data.tobytes()))


def test_a_journal_of_many_threads_can_be_read(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    descriptor = os.open(tmp_path / "runs", os.O_RDWR | os.O_CREAT)
    beginning = Beginning("plan", {"a": (1, 2, "é")})
    journal = RunJournal.begin(descriptor, 0, beginning)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: journal.add(n // 100, n % 100, [Outcome(n, n, 0.5, 2.0 * n)] * 2), range(5000)))
    journal.flush()
    found, said = RunJournal.found(descriptor, 0)
    os.close(descriptor)
    assert said == beginning and len(found.known) == 5000
    assert found.known[12, 34] == {0: Outcome(1234, 1234, 0.5, 2468.0), 1: Outcome(1234, 1234, 0.5, 2468.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("resume")
    write_tiny_folder(home / "hf")
    return home


#: Converts, and ends as its first argument says when so many runs are stored: by a kill, or by Ctrl-C.
PROGRAM = """
import os, signal, sys, time
from requant.cli import start
from requant.worker import Worker
how, number, *words = sys.argv[1:]
real, stored = Worker.store, []
def store(self, task):
    if len(stored) == int(number):
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(5)
    stored.append(task)
    return real(self, task)
Worker.store = store
sys.argv = ["requant", *words]
start.main()
"""


def ended(folder, how, number, *words):
    command = [sys.executable, "-c", PROGRAM, how, str(number), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=120, preexec_fn=heed_interrupts
    )


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "hf", "out.gguf", "--to", "Q8_0"),
        pytest.param(("convert", "hf", "out", "--to", "GPTQ-4"), marks=pytest.mark.slow),
        pytest.param(("convert", "hf", "out", "--to", "F32", "--max-shard-tensors", "4"), marks=pytest.mark.slow),
        pytest.param(("convert", "hf", "out-{}.gguf", "--to", "Q8_0,F16"), marks=pytest.mark.slow),
        pytest.param(
            ("merge", "hf", "hf-twin", "--method", "linear", "--weight", "1,2", "-o", "out"), marks=pytest.mark.slow
        ),
    ],
    ids=lambda words: words[0] + words[-1],
)
def test_a_kill_and_an_interrupt_in_a_row(folder, tmp_path, words):
    (tmp_path / "hf").symlink_to(folder / "hf")
    shutil.copytree(folder / "hf", tmp_path / "hf-twin")
    words = (*words, "--threads", "1", "-q")
    assert ended(tmp_path, "SIGKILL", 10**6, *words).returncode == 0
    quiet = {name: said for name, said in digests(tmp_path).items() if not name.startswith("hf")}
    for name in quiet:
        (tmp_path / name).unlink()
    if (tmp_path / "out").is_dir():
        (tmp_path / "out").rmdir()
    killed = ended(tmp_path, "SIGKILL", 4, *words)  # without --resume: nobody foresees a kill
    assert killed.returncode == -signal.SIGKILL and list(tmp_path.glob("*.partial"))
    stopped = ended(tmp_path, "SIGINT", 5, *words, "--resume")
    assert stopped.returncode == 130
    assert stopped.stderr.strip() == "interrupted; nothing was changed; the same command goes on from here"
    last = ended(tmp_path, "SIGKILL", 10**6, *[word for word in words if word != "-q"], "--resume", "--json")
    assert last.returncode == 0, last.stderr
    assert json.loads(last.stdout)["resumed_bytes" if "," not in words[4] else "bytes_read"] > 0
    now = {name: said for name, said in digests(tmp_path).items() if not name.startswith("hf")}
    assert now == quiet


def test_a_living_process_is_not_disturbed(folder, tmp_path):
    from requant.begun import Begun
    from requant.output import OutputSet

    layout = Layout(tmp_path, (OutputFile("out.bin", b"HEAD", 4),))
    beginning = Beginning("one", {})
    with OutputSet(layout, begun=Begun(beginning)), pytest.raises(PlanError, match="another process is writing"):
        OutputSet(layout, begun=Begun(beginning, resume=True)).__enter__()


def test_an_error_of_the_input_is_told_again(tmp_path):
    values = VALUES.copy()
    values[-1, -1] = np.nan
    for _ in range(2):
        with pytest.raises(FormatError, match=r"value \[4095, 1023\]"):
            execute(plan_of(tmp_path, Memory(values.tobytes())), Options(1), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out0.bin.partial"]


@pytest.mark.slow
def test_a_sample_of_the_campaign_of_kills():
    """`python -m tests.faults.kills` kills two hundred times."""
    command = [sys.executable, "-m", "tests.faults.kills", "--kills", "14"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.splitlines()[-1].endswith("0 wrong")
