"""A pipeline is killed at random moments and started again, and must end in the bytes of one that nothing disturbed.

    python -m tests.faults.pipeline_kills [--kills 50] [--seed 0] [--recipe calibrated.yaml|sized.yaml]

One process imports everything; forks of it run the recipe, each killed at a random moment, until one comes to its end.
Then the output and the receipt must be those of a quiet run, and no partial file may be left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from requant.pipelines.work import digest_of
from tests.pipelines import write_all

NAMES = ("out.gguf", "out.gguf.receipt.json")


def started(arguments: list[str]) -> int:
    """A process of its own that runs the command; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        from requant.cli.main import cli

        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        cli.main(arguments, standalone_mode=False)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        os._exit(code)


def ended(child: int, after: float) -> int | None:
    """Its exit code, or None where it was killed after so many seconds."""
    until = time.monotonic() + after
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return None if code == -signal.SIGKILL else code


def results() -> dict[str, str]:
    """What was made."""
    return {name: digest_of(Path(name)) for name in NAMES}


def tried(kills: int, seed: int, recipe: str) -> tuple[int, int]:
    """How many processes were killed in how many pipelines; AssertionError where a result is another."""
    import requant.pipelines.made
    import requant.verify.check

    if "calibrate" in Path(recipe).read_text():
        import torch
        import transformers.models.llama.modeling_llama  # noqa: F401

        import requant.calibration.layerwise  # noqa: F401

        torch.set_num_threads(1)  # threads of a parent are not there in its forks

    rng, arguments = random.Random(seed), ["run", recipe, "-q"]
    assert ended(started(arguments), 600) == 0  # kernels are compiled
    began = time.monotonic()
    clear()
    assert ended(started(arguments), 600) == 0
    whole, wanted = time.monotonic() - began, results()
    killed = pipelines = 0
    while killed < kills:
        clear()
        pipelines += 1
        while (code := ended(started(arguments), rng.uniform(0, 1.1 * whole))) is None:
            killed += 1
            assert killed < 20 * kills, "it comes to no end"
        assert code == 0, code
        assert results() == wanted
        assert not list(Path().glob("*.partial*")), list(Path().glob("*.partial*"))
    return killed, pipelines


def clear() -> None:
    """As if it had never run."""
    import shutil

    for name in NAMES:
        Path(name).unlink(missing_ok=True)
    shutil.rmtree("out.gguf.run", ignore_errors=True)


def main() -> None:
    """Kill as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="recipe.yaml")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(write_all(Path(folder)))
        killed, pipelines = tried(options.kills, options.seed, options.recipe)
        os.chdir("/")
    print(f"{killed} kills in {pipelines} pipelines, each of which ended in the same bytes")


if __name__ == "__main__":
    sys.exit(main())
