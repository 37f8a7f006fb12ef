"""What the journal of finished runs costs: `python benchmarks/resume.py MODEL [--to Q4_K_M] [--repeat 5]`.

A conversion with the journal and the same without, in turn, in one process; processor time, medians. MODEL is a folder,
such as `benchmarks/synthetic.py` makes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from requant import execution, formats, worker
from requant.begun import Begun
from requant.formats import FORMATS
from requant.operations.convert import Request, plan_conversion


def main() -> None:
    """Print both, and the share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--to", default="Q4_K_M")
    parser.add_argument("--repeat", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.model.parent) as folder:
        destination = Path(folder, "out.gguf")
        plan = plan_conversion(formats.open(asked.model), FORMATS["gguf"], destination, Request(asked.to))
        times: dict[bool, list[float]] = {True: [], False: []}
        execution.execute(plan)
        for number in range(2 * asked.repeat):
            journal = number % 2 == 0
            execution.Begun = Begun if journal else lambda beginning, resume: Begun()
            execution.beginning_of = beginning_of if journal else lambda *arguments: None
            worker.checksum = checksum if journal else lambda data, before=0: 0
            began = time.process_time()
            execution.execute(plan, overwrite=True)
            times[journal].append(time.process_time() - began)
        kept, without = median(times[True]), median(times[False])
        share = 100 * (kept / without - 1)
        print(f"{asked.to}: {kept:.2f} s with the journal, {without:.2f} s without: {share:+.1f} %")


beginning_of, checksum = execution.beginning_of, worker.checksum

if __name__ == "__main__":
    main()
