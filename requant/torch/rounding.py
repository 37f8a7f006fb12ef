"""Parameters that are seen as their encoding would store them, while what is trained stays as fine as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from requant.codecs import Values
from requant.encodings import F32, Encoding, rows_of
from requant.errors import UnsupportedError, VerifyError
from requant.expressions import Scratch, Stored
from requant.ir import Tensor, TensorSpec
from requant.plan import Step
from requant.sources import Memory
from requant.storing import Storing
from requant.system import processors

#: Values that one thread rounds at least.
_RUN: Final = 1 << 18


@dataclass(frozen=True)  # without slots: `storing` is kept
class Piece:
    """A stretch of rows of a stored tensor whose numbers are all of one parameter.

    target: the stored tensor, of which it is the rows `[start, stop)`. importance: of the whole tensor, as of a step.
    index: which stretches of `width` numbers of the parameter these rows are, in their order; None for all as they are.
    """

    target: TensorSpec
    start: int
    stop: int
    importance: NDArray[np.float32] | None = None
    width: int = 1
    index: NDArray[np.int64] | None = field(default=None, compare=False)

    def put(self, values: Values, out: Values) -> None:
        """Write the numbers as they are stored to their places in `out`; both are all of the parameter, flat."""
        columns = self.target.shape[-1] if self.target.shape else 1
        if self.index is None:
            out[...] = self.rounded(values.reshape(-1, columns)).reshape(-1)
        else:
            taken = values.reshape(-1, self.width)[self.index].reshape(-1, columns)
            out.reshape(-1, self.width)[self.index] = self.rounded(taken).reshape(-1, self.width)

    def rounded(self, values: Values) -> Values:
        """Rows of float32 as a reader will find them: encoded, and decoded."""
        again, storing = np.empty_like(values), self._storing
        if not self.target.encoding.sliced:
            known = [float(np.abs(values).max(initial=0))] if storing.reductions() else []
            parts = storing.whole_parts(known)
            storing.encode(values, 0, parts, 0)
            storing.decoded(parts, 0, again)
            return again
        run = self._run_rows(values)

        def some(first: int) -> None:
            last = min(first + run, len(values))
            parts = storing.new_parts(self.start + first, self.start + last, Scratch())
            storing.encode(values[first:last], self.start + first, parts, 0)
            storing.decoded(parts, 0, again[first:last])

        _side_by_side(some, range(0, len(values), run))
        return again

    def _run_rows(self, values: Values) -> int:
        granule: int = self.target.encoding.granule(self.target.shape)
        share: int = max(len(values) // processors(), _RUN // max(values.shape[1], 1), 1)
        return -(-share // granule) * granule

    @cached_property
    def _storing(self) -> Storing:
        """What stores it; the step is over a tensor of no bytes, so that a module that is copied stays small."""
        shape = self.target.shape
        return Storing(Step(Stored(Tensor("", shape, F32, {"data": Memory(b"")})), self.target, self.importance))


def _side_by_side(do: Callable[[int], None], firsts: Sequence[int]) -> None:
    if len(firsts) < 2:
        for first in firsts:
            do(first)
        return
    with ThreadPoolExecutor(processors()) as pool:
        list(pool.map(do, firsts))


class _Through(torch.autograd.Function):
    """Forward, the rounded numbers; backward, the gradient as if they had not been rounded."""

    @staticmethod
    def forward(context: Any, weight: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded

    @staticmethod
    def backward(context: Any, *gradients: Any) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class FakeQuantized(torch.nn.Module):
    """A parametrization (torch.nn.utils.parametrize): a parameter is used as its encoding would store it, and trained
    as it is, with a straight-through gradient (Bengio, Léonard and Courville, 2013).

    encoding: any of requant's; the parameter is a matrix [out, in], or a stack of them. What `fake_quantize` registers
    is made of the pieces that a plan stores.

    Encoding is done on the processor, for each forward pass (torch's `parametrize.cached()` makes it once where a
    weight is used several times). A parameter on another device is copied there and back. A parameter in BF16 or F16
    is used rounded to that: what is stored may be finer.
    """

    def __init__(self, encoding: Encoding | None = None, *, name: str = "weight", pieces: Sequence[Piece] = ()) -> None:
        super().__init__()
        self.name = name
        self.encoding = encoding
        self.pieces = tuple(pieces)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The same shape and dtype. Raises `VerifyError` for NaN and infinities."""
        result: torch.Tensor = _Through.apply(weight, self.rounded(weight))  # type: ignore[no-untyped-call]
        return result

    @torch.no_grad()
    def rounded(self, weight: torch.Tensor) -> torch.Tensor:
        """The numbers that are stored, without a gradient."""
        values = weight.detach().to("cpu", torch.float32).contiguous().numpy().reshape(-1)
        if not np.isfinite(values).all():
            raise VerifyError(f"{self.name} holds NaN or infinities", hint="training has diverged")
        out = values.copy()
        for piece in self.pieces or (self._whole(weight),):
            piece.put(values, out)
        return torch.from_numpy(out).reshape(weight.shape).to(weight.device, weight.dtype)

    def _whole(self, weight: torch.Tensor) -> Piece:
        if self.encoding is None:
            raise UnsupportedError(f"{self.name}: no encoding is given")
        target = TensorSpec(self.name, tuple(weight.shape), self.encoding)
        return Piece(target, 0, rows_of(target.shape))

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        labels = [piece.target.encoding.label for piece in self.pieces]
        return ", ".join(dict.fromkeys(labels or ([self.encoding.label] if self.encoding else [])))
