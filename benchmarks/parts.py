"""Where a conversion's second goes, and what bounds each part: `python benchmarks/parts.py MODEL [--to Q4_K_M]`.

Processor seconds of conversions by one thread in one process, each part without the parts within it, medians; the first
part is of whole processes. Beside each stands the least it could take, measured in the same run:

* start and plan: the packages alone that every conversion imports (numpy, llvmlite, click, tqdm);
* reading: the model's files by `preadv`, a megabyte at a time; writing: as many bytes by `pwrite`, into a file whose
  room is reserved;
* decoding: a copy of as many bytes as are read and made, a run at a time;
* search and packing: the same kernels over one run's values again and again, so that nothing else is paid;
* looking at values and blocks: `max` of as many values, a run at a time.

The journal (checksums, records, what the plan is) and all else, which is Python between the parts, have no such bound.
Blocks are summed up for the journal in the pass that looks at them: what that pass takes beyond looking is its own.
MODEL is a folder, such as `benchmarks/synthetic.py` makes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from start import processor_seconds  # type: ignore[import-not-found]

from requant import execution, expressions, formats, system, values, worker
from requant.begun import Begun
from requant.encodings import rows_of
from requant.expressions import Form, Node
from requant.formats import FORMATS
from requant.operations.convert import Request, plan_conversion
from requant.plan import Plan, Step
from requant.run_journal import RunJournal
from requant.runs import RUN_VALUES, runs_of
from requant.sink import Sink
from requant.sources import FileSlice
from requant.storing import Storing

PACKAGES = "import numpy, llvmlite.binding, click, tqdm, json, logging, dataclasses"


def nodes(of: type[Node] = Node) -> Iterator[tuple[type, str]]:
    """Every kind of node that has a `fill` of its own."""
    for one in of.__subclasses__():
        if "fill" in vars(one):
            yield one, "fill"
        yield from nodes(one)


#: What is done for each part, and where it is called from.
PARTS = {
    "reading": [(FileSlice, "read_into")],
    "decoding": [*nodes()],
    "looking": [(worker, "check_values"), (worker, "check_bits"), (worker, "check_blocks")],
    "search and packing": [(Storing, "encode")],
    "writing": [(Sink, "write")],
    "journal": [
        *((execution, "beginning_of"), (worker, "checksum"), (RunJournal, "add"), (RunJournal, "flush")),
        *((Begun, "begin_alone"), (Begun, "end")),
    ],
}
spent: dict[str, float] = defaultdict(float)
_within: list[float] = []


def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, and the time it takes without what is timed within it is added to `spent`."""

    def call(*arguments: Any) -> Any:
        _within.append(0.0)
        began = time.thread_time()
        try:
            return function(*arguments)
        finally:
            took = time.thread_time() - began
            spent[part] += took - _within.pop()
            if _within:
                _within[-1] += took

    return call


def seconds(what: Callable[[], object], rounds: int = 5) -> float:
    """Processor seconds of this thread, once it has run before; the median."""
    what()
    found = []
    for _ in range(rounds):
        began = time.thread_time()
        what()
        found.append(time.thread_time() - began)
    return median(found)


def bounds(plan: Plan, model: Path, folder: Path) -> dict[str, float]:
    """The least that each part could take."""
    rounded = [step for step in plan.steps if step.form is Form.VALUES]
    made = 4 * sum(rows_of(step.target.shape) * step.values.columns for step in rounded)
    floats, other = np.zeros(RUN_VALUES, np.float32), np.zeros(RUN_VALUES, np.float32)
    copying = seconds(lambda: np.copyto(other, floats), 99) / (2 * floats.nbytes)
    looking = seconds(floats.max, 99) / floats.nbytes
    packages = median(processor_seconds([sys.executable, "-c", PACKAGES]) for _ in range(5))
    return {
        "start and plan": packages,
        "reading": seconds(lambda: reading(model)),
        "decoding": copying * (sum(step.input_bytes for step in rounded) + made),
        "looking": looking * (made + sum(step.target.nbytes for step in rounded)),
        "search and packing": searching(plan),
        "writing": seconds(lambda: writing(folder / "bound", sum(file.nbytes for file in plan.layout.files))),
    }


def reading(model: Path) -> None:
    """All weights of a folder, into the same megabyte."""
    room = np.empty(1 << 20, np.uint8)
    for path in model.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while file.readinto(room):
                pass


def writing(path: Path, nbytes: int) -> None:
    """So many bytes, out of the same megabyte."""
    room = np.ones(1 << 20, np.uint8)
    with path.open("wb", buffering=0) as file:
        system.reserve(file.fileno(), nbytes)
        for at in range(0, nbytes, room.size):
            os.pwrite(file.fileno(), room[: nbytes - at], at)
    path.unlink()


def searching(plan: Plan) -> float:
    """What the kernels take for each step's first run of values, for all its rows."""
    rates: dict[tuple[str, int], float] = {}
    total = 0.0
    for step in plan.steps:
        if step.form is not Form.VALUES:
            continue
        start, stop = next(runs_of(step))
        kind = step.target.encoding.label, step.values.columns
        if kind not in rates:
            storing, scratch = Storing(step), expressions.Scratch(1 << 26)
            values = np.empty((stop - start, step.values.columns), np.float32)
            step.values.fill(
                Form.VALUES, range(start, stop), values, expressions.Context(scratch, expressions.Shared())
            )
            with scratch.room() as room:
                out = storing.new_parts(start, stop, room)
                rates[kind] = seconds(lambda s=storing, v=values, a=start, o=out: s.encode(v, a, o, 0)) / values.size
        total += rates[kind] * rows_of(step.target.shape) * step.values.columns
    return total


def only_looked_at(step: Step, start: int, data: NDArray[np.uint8]) -> int:
    """As `check_blocks` does, without sums."""
    values._without_scale(step.target.encoding, data)
    return 0


def parts_of(plan: Plan, repeat: int) -> dict[str, float]:
    """Seconds of each part of carrying the plan out, and of all between them."""
    found = []
    for _ in range(repeat):
        spent.clear()
        began = time.process_time()
        execution.execute(plan, execution.Options(workers=1), overwrite=True)
        whole = time.process_time() - began
        found.append({**dict.fromkeys(PARTS, 0.0), **spent, "between the parts": whole - sum(spent.values())})
    return {part: median(one[part] for one in found) for part in found[0]}


def main() -> None:
    """Print each part's seconds, its share, its bound and how near that it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=lambda text: Path(text).absolute())
    parser.add_argument("--to", default="Q4_K_M")
    parser.add_argument("--repeat", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.model.parent) as folder:
        destination = Path(folder, "out.gguf")
        plan = plan_conversion(formats.open(asked.model), FORMATS["gguf"], destination, Request(asked.to))
        execution.execute(plan)
        least = bounds(plan, asked.model, Path(folder))
        dry = [sys.executable, "-m", "requant", "convert", asked.model, destination, "--to", asked.to, "--dry-run"]
        here = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        start = median(processor_seconds([*dry, "--force"], **here) for _ in range(5))
        for part, places in PARTS.items():
            for place, name in places:
                setattr(place, name, timed(part, getattr(place, name)))
        took = parts_of(plan, asked.repeat)
        worker.check_blocks = timed("looking", only_looked_at)
        alone = parts_of(plan, asked.repeat)["looking"]
    took["journal"] += max(0.0, took["looking"] - alone)
    rows = {"start and plan": start, **took, "looking": min(alone, took["looking"])}
    whole = sum(rows.values())
    print(f"{asked.to}: {whole:.2f} processor seconds")
    for part, one in sorted(rows.items(), key=lambda row: -row[1]):
        beside = f"{least[part]:6.2f} s at least, {least[part] / one:4.0%} of it" if least.get(part) and one else ""
        print(f"  {part:20} {one:6.2f} s {one / whole:6.1%}  {beside}".rstrip())
    print(f"  the journal adds {rows['journal'] / (whole - start - rows['journal']):.1%} to carrying the plan out")


if __name__ == "__main__":
    main()
