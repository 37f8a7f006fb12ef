"""Preloaded by Dask workers of `benchmarks/cluster.py`: they read and write REQUANT_RATE bytes a second."""

import os
import time
from typing import Any

from requant.sink import Sink
from requant.sources import FileSlice

_RATE = float(os.environ["REQUANT_RATE"])
_read, _write = FileSlice.read_into, Sink.write


def _slow_read(self: FileSlice, start: int, out: Any) -> None:
    time.sleep(out.nbytes / _RATE)
    _read(self, start, out)


def _slow_write(self: Sink, offset: int, data: Any) -> None:
    time.sleep(data.nbytes / _RATE)
    _write(self, offset, data)


FileSlice.read_into = _slow_read  # type: ignore[method-assign]
Sink.write = _slow_write  # type: ignore[method-assign]
