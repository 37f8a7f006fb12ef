"""The model rounded for a trial: how far it diverges, beside what is predicted of it.

The prediction (`requant.divergence`) is a sum of second-order terms of single weights, from the gradients of some
windows of text. What it leaves out, and how hard those windows are beside others, is measured: all matrices are
rounded, which is predicted from the sums that were found, and the model is run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from requant.calibration.recording import Record, Tried
from requant.calibration.skeleton import Piece
from requant.codecs import codec_for
from requant.encodings import BLOCKS, Encoding

#: By the name of a trial, the types that matrices get: the first of them that their rows fit.
TRIALS: Final = {"coarse": ("Q2_K", "Q4_0"), "fine": ("Q4_K", "Q5_0")}
#: Windows that are tried for each one with gradients: one takes a quarter of the work.
WINDOWS: Final = 4
#: Rows that are rounded at once.
_ROWS: Final = 1024

Values = NDArray[np.float32]


class Trial:
    """name: of `TRIALS`. record: of all sums, which are complete. tokens: of the inputs; tried: of the trial."""

    def __init__(self, name: str, record: Record, tokens: int, tried: int) -> None:
        self.name, self._record, self._tokens, self._tried = name, record, tokens, tried
        self.found = record.trials.setdefault(name, Tried())

    def round(self, pieces: Iterable[Piece], stack: Values) -> None:
        """The matrices [matrices, rows, columns] that gradients were taken of, in place."""
        for piece in pieces:
            sums = self._record.sums.get(self._record.key(piece))
            if sums is None or not sums.rows.any():
                continue
            weights = sums.weighted / sums.rows.sum()
            reached = sums.rows / sums.gradients * (sums.inputs / self._tokens)
            matrix = stack[piece.matrix, piece.start : piece.stop]
            for start in range(0, len(matrix), _ROWS):
                part = slice(start, start + _ROWS)
                squares = self._rounded(matrix[part], weights.astype(np.float32))
                self.found.predicted += float(reached[part] @ (squares @ weights)) / 2

    def look_up(self, name: str, out: Any) -> None:
        """What an embedding gives for the tokens of a window, in place. out: [1, tokens, columns]."""
        sums = self._record.lookups[name]
        if sums.gradients:
            squares = self._rounded(out[0].numpy(), None)
            self.found.predicted += float((squares @ (sums.columns / sums.gradients)).sum()) / 2 / self._tried

    def add(self, truth: Any, logits: Any) -> None:
        """What the model says of a window, and what it says when it is rounded: [tokens, words] each."""
        expected, said = torch.log_softmax(truth, -1), torch.log_softmax(logits, -1)
        self.found.measured += float((expected.exp() * (expected - said)).sum(-1).mean())
        self.found.windows += 1

    def _rounded(self, values: Values, importance: Values | None) -> Values:
        """Squares of what changes; values are rounded in place, unless no type fits them."""
        encoding = self._encoding(values.shape[1])
        if encoding is None:
            return np.zeros_like(values)
        parts = encoding.parts(values.shape)
        stored = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in parts.items()}
        before, codec = values.copy(), codec_for(encoding)
        codec.encode(before, stored, 0, importance)
        codec.decode(stored, values)
        return np.asarray(np.square(values - before))

    def _encoding(self, columns: int) -> Encoding | None:
        return next((BLOCKS[one] for one in TRIALS[self.name] if columns % BLOCKS[one].values == 0), None)
