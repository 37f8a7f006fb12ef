"""Ctrl-C at any moment of a command: one line, exit code 130, and no traceback."""

import json
import signal
import subprocess
import sys

import pytest

from tests.interrupts import heed_interrupts
from tests.tiny_folder import write_tiny_folder

#: Runs the console script, and presses Ctrl-C when a module is about to be imported; swallowed: within a destructor.
PROGRAM = """
import os, signal, sys

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGNAL)
            sum(range(1000))  # the interpreter looks for signals

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGNAL)
        sum(range(1000))

MODULE, how, *words = sys.argv[1:]
from requant.cli import start
sys.argv = ["requant", *words]
if how == "import":
    sys.meta_path.insert(0, Press())
else:
    from requant.cli import execution
    real = execution.execute_together
    def execute(*arguments, **options):
        if how == "swallowed":
            Swallows()
        if how == "turned":
            try:
                os.kill(os.getpid(), signal.SIGNAL)
                sum(range(1000))
            except KeyboardInterrupt:
                raise ImportError("numpy._core.multiarray failed to import")
        return real(*arguments, **options)
    execution.execute_together = execute
start.main()
"""


def interrupted(folder, how, module, *words, number="SIGINT"):
    program = PROGRAM.replace("SIGNAL", number)
    command = [sys.executable, "-c", program, module, how, *map(str, words)]
    process = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=120, preexec_fn=heed_interrupts, check=False
    )
    assert process.stderr.strip() == "interrupted; nothing was changed"
    assert process.returncode == 130
    assert [path.name for path in folder.iterdir()] == ["hf"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("interrupted")
    write_tiny_folder(home / "hf")
    return home


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("click", "requant.execution", "requant.kernels_cpu")]


@pytest.mark.parametrize("module", ["requant.cli.main", "numpy", *SLOW])
def test_during_imports(folder, module):
    interrupted(folder, "import", module, "convert", "hf", "out.gguf", "--to", "Q8_0", "-q")


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_other_signals(folder, number):
    interrupted(folder, "import", "numpy", "convert", "hf", "out.gguf", "-q", number=number)


@pytest.mark.slow
def test_what_nohup_starts_goes_on(folder, tmp_path):
    program = PROGRAM.replace("SIGNAL", "SIGHUP")
    words = ["numpy", "import", "convert", "hf", tmp_path / "out.gguf", "-q"]

    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=folder, preexec_fn=ignore, timeout=120, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "out.gguf").stat().st_size


def test_a_program_gets_its_document(folder):
    program = PROGRAM.replace("SIGNAL", "SIGINT")
    command = [sys.executable, "-c", program, "requant.kernels_cpu", "import", "convert", "hf", "o.gguf", "--json"]
    process = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=120, preexec_fn=heed_interrupts, check=False
    )
    assert process.returncode == 130
    error = json.loads(process.stdout)["error"]
    assert (error["kind"], error["message"]) == ("Interrupted", "interrupted; nothing was changed")


@pytest.mark.parametrize("how", ["swallowed", "turned"])
def test_where_an_exception_would_be_lost(folder, how):
    """Destructors swallow exceptions; extension modules turn them into others while they are imported."""
    interrupted(folder, how, "-", "convert", "hf", "out.gguf", "--to", "F16", "-q")


def test_signals_that_are_ignored_stay_ignored(folder):
    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    program = PROGRAM.replace("SIGNAL", "SIGINT")
    command = [sys.executable, "-c", program, "numpy", "import", "inspect", "hf"]
    process = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=120, preexec_fn=ignore, check=False
    )
    assert process.returncode == 0 and not process.stderr
