"""What it costs to ask: `python -m benchmarks.startup MODEL [--against CHECKOUT] [--rounds 5]`.

Processor time of `--help` and of commands that read headers only, in fresh processes in turns, with modules compiled,
as multiples of `python -c "import numpy"`; CHECKOUT is an older working tree of this repository, such as
`git worktree add ../older a49be0b` makes, and its figures are those of the same run. MODEL is a model folder.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def cases(model: Path) -> dict[str, list[str]]:
    """What is asked."""
    return {
        "--help": ["--help"],
        "convert --help": ["convert", "--help"],
        "requantize --help": ["requantize", "--help"],
        "inspect --help": ["inspect", "--help"],
        "check --help": ["check", "--help"],
        "inspect": ["inspect", str(model)],
        "convert --dry-run": ["convert", str(model), "out.gguf", "--to", "Q4_K_M", "--dry-run"],
    }


def processor(command: Sequence[str], environment: Mapping[str, str], folder: str) -> float:
    """Seconds, of the user and of the system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    trees = {"now": HERE, **({"then": asked.against.resolve()} if asked.against else {})}
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        places = {
            name: kept | {"PYTHONPATH": str(tree), "PYTHONPYCACHEPREFIX": f"{folder}/{name}"}
            for name, tree in trees.items()
        }
        print("| | of `import numpy` | of the older |\n| - | - | - |")
        for what, words in cases(asked.model.resolve()).items():
            rows = []
            for _ in range(asked.rounds + 1):  # the first compiles
                unit = processor([sys.executable, "-c", "import numpy"], places["now"], folder)
                spent = {
                    name: processor([sys.executable, "-m", "requant", *words], place, folder)
                    for name, place in places.items()
                }
                rows.append((spent["now"] / unit, spent["now"] / spent.get("then", float("nan"))))
            ours, ratio = (statistics.median(column) for column in zip(*rows[1:], strict=True))
            print(f"| {what} | {ours:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
