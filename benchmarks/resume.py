"""What the journal of finished runs costs: `python benchmarks/resume.py MODEL [--to Q4_K_M] [--repeat 9]`.

Conversions in one process by one thread; the processor time of what is done for the journal alone, beside all the rest:
medians. (Two conversions, with a journal and without, differ by less than the same one does twice on a busy machine.)
MODEL is a folder, such as `benchmarks/synthetic.py` makes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from requant import execution, formats, worker
from requant.begun import Begun
from requant.formats import FORMATS
from requant.operations.convert import Request, plan_conversion
from requant.run_journal import RunJournal

#: What is done for nothing else, and where it is called from.
PARTS = {
    "what the plan is": [(execution, "beginning_of")],
    "checksums": [(worker, "checksum")],
    "records": [(RunJournal, "add"), (RunJournal, "flush"), (Begun, "begin_alone"), (Begun, "end")],
}
spent: dict[str, float] = defaultdict(float)


def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, and its time added to `spent`; what it calls of the same part is not counted twice."""

    def call(*arguments: Any) -> Any:
        before, began = spent[part], time.thread_time()
        found = function(*arguments)
        ended = time.thread_time()
        clock = time.thread_time() - ended  # what looking at the clock takes
        spent[part] = before + ended - began - clock
        return found

    return call


def main() -> None:
    """Print the share of each part, and of all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--to", default="Q4_K_M")
    parser.add_argument("--repeat", type=int, default=9)
    asked = parser.parse_args()
    for part, places in PARTS.items():
        for place, name in places:
            setattr(place, name, timed(part, getattr(place, name)))
    totals, shares = [], []
    with tempfile.TemporaryDirectory(dir=asked.model.parent) as folder:
        destination = Path(folder, "out.gguf")
        plan = plan_conversion(formats.open(asked.model), FORMATS["gguf"], destination, Request(asked.to))
        execution.execute(plan)
        for _ in range(asked.repeat):
            spent.clear()
            began = time.process_time()
            execution.execute(plan, execution.Options(workers=1), overwrite=True)
            totals.append(time.process_time() - began)
            rest = totals[-1] - sum(spent.values())
            shares.append({"all": sum(spent.values()) / rest} | {part: spent[part] / rest for part in PARTS})
    shown = (f"{part} {100 * median(one[part] for one in shares):.1f} %" for part in shares[0])
    print(f"{asked.to}, {median(totals):.2f} s:", ", ".join(shown))


if __name__ == "__main__":
    main()
