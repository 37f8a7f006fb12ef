"""Preloaded by Dask workers of `benchmarks/cluster.py`: they read and write REQUANT_RATE bytes a second."""

import os
import time
from typing import Any

from requant.sink import Sink
from requant.sources import FileSlice


def _throttle(rate: float) -> None:
    read, write = FileSlice.read_into, Sink.write

    def slow_read(self: FileSlice, start: int, out: Any) -> None:
        time.sleep(out.nbytes / rate)
        read(self, start, out)

    def slow_write(self: Sink, offset: int, data: Any) -> None:
        time.sleep(data.nbytes / rate)
        write(self, offset, data)

    FileSlice.read_into, Sink.write = slow_read, slow_write  # type: ignore[method-assign]


if FileSlice.read_into.__name__ != "slow_read":  # a preload may be imported twice
    _throttle(float(os.environ["REQUANT_RATE"]))
