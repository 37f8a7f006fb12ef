"""How a conversion scales over Dask workers: `python benchmarks/cluster.py MODEL [--to Q8_0] [--rate 1e6]`.

Workers are processes of this machine. What each may read and write in a second is bounded (`throttled.py`), as it is by
the network of a node, so that two processors can show what eight nodes do. Kernels are compiled before.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from requant import formats
from requant.execution import execute_together
from requant.formats import FORMATS
from requant.operations.convert import Request, plan_conversion


def main() -> None:
    """Print a line for each number of workers."""
    from distributed import LocalCluster

    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--to", default="Q8_0")
    parser.add_argument("--rate", type=float, default=1e6, help="Bytes a second of each worker.")
    parser.add_argument("--workers", default="1,2,4,8")
    asked = parser.parse_args()
    os.environ["REQUANT_RATE"] = str(asked.rate)
    first: float | None = None
    with tempfile.TemporaryDirectory(dir=asked.model.parent) as folder:
        plan = plan_conversion(formats.open(asked.model), FORMATS["gguf"], Path(folder, "out.gguf"), Request(asked.to))
        execute_together([plan])
        alone = Path(folder, "out.gguf").read_bytes()
        for number in map(int, asked.workers.split(",")):
            preload = [str(Path(__file__).with_name("throttled.py"))]
            options = {"processes": True, "dashboard_address": None, "preload": preload}
            with LocalCluster(n_workers=number, threads_per_worker=1, **options) as cluster:
                execute_together([plan], overwrite=True, dask=cluster.scheduler_address)  # kernels are loaded
                began = time.monotonic()
                (receipt,) = execute_together([plan], overwrite=True, dask=cluster.scheduler_address)
                seconds = time.monotonic() - began
            first = first or seconds
            same = Path(folder, "out.gguf").read_bytes() == alone
            tasks = receipt.cluster["tasks"] if receipt.cluster else 0
            print(
                f"{number} workers: {seconds:6.1f} s, {first / seconds:.2f} times as fast, {tasks} tasks, "
                f"{'same bytes' if same else 'OTHER BYTES'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
