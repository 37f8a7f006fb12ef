"""What reductions find of stored tensors, outside of any plan: for whoever looks at a model and writes none."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from requant.expressions import Context, Reduction, Scratch, Shared, part_of, slabs
from requant.system import processors

R = TypeVar("R", bound=Reduction)


@dataclass(slots=True)
class _Begun(Generic[R]):
    """A reduction that is worked on, and what its slabs have given so far, merged in their order."""

    reduction: R
    shared: Shared = field(default_factory=Shared)
    total: Any | None = None

    def add(self, part: Any) -> None:
        """What the next slab has given."""
        self.total = part if self.total is None else self.reduction.merge(self.total, part)


def reduced(
    reductions: Iterable[R], workers: int | None = None, told: Callable[[R, int], object] = lambda reduction, rows: None
) -> Iterator[Any]:
    """The result of each reduction, in order; none may need what another one has found.

    workers: threads (default: the processors this process may use), each of which looks at one slab at a time. told:
    hears of which reduction how many rows were looked at. Memory is bounded by a slab for each worker, and the parts
    of encodings that cannot be read in slices. Results do not depend on the number of workers.
    """
    count = workers or processors()
    local = threading.local()

    def look(begun: _Begun[R], rows: range) -> Any:
        scratch = getattr(local, "scratch", None)
        if scratch is None:
            scratch = local.scratch = Scratch()
        return part_of(begun.reduction, rows, (), Context(scratch, begun.shared))

    waiting: deque[tuple[_Begun[R], range, Future[Any] | None]] = deque()

    def settle() -> Iterator[Any]:
        """The oldest slab; and the result of its reduction, where it was the last."""
        begun, rows, future = waiting.popleft()
        if future is None:
            begun.shared.held.clear()
            yield begun.reduction.result(begun.total)
            return
        begun.add(future.result())
        told(begun.reduction, len(rows))

    pool = ThreadPoolExecutor(count)
    try:
        for reduction in reductions:
            begun = _Begun(reduction)
            for rows in slabs(reduction.inputs):
                while sum(future is not None for *_, future in waiting) >= 2 * count:
                    yield from settle()
                waiting.append((begun, rows, pool.submit(look, begun, rows)))
            waiting.append((begun, range(0), None))
        while waiting:
            yield from settle()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
