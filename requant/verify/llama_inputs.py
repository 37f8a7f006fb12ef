"""What llama.cpp multiplies a model's weights with, seen through its evaluation callback, in the child process.

Source: `IMatrixCollector::collect_imatrix` (tools/imatrix/imatrix.cpp), `ggml_backend_sched_eval_callback`
(ggml-backend.h): the callback is asked for every node whether it wants to see it, and shown those that it wants once
they are computed; what it answers then says whether the evaluation goes on.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable
from ctypes import CFUNCTYPE, c_bool, c_char, c_char_p, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.verify.llama_channel import Refused

#: Tokens of one llama_decode: more make no product faster.
INPUTS_BATCH: Final = 512
_EVERY: Final = 0.5  # seconds
_F32: Final = 0  # GGML_TYPE_F32
#: What a model's predictions are multiplied with, after which nothing comes that is measured.
_HEADS: Final = ("output.weight", "token_embd.weight")

EvalCallback = CFUNCTYPE(c_bool, c_void_p, c_bool, c_void_p)

FUNCTIONS: Final[dict[str, tuple[Any, list[Any]]]] = {
    "ggml_op_name": (c_char_p, [c_int32]),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_backend_buffer_is_host": (c_bool, [c_void_p]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
}


class Tensor(ctypes.Structure):
    """`ggml_tensor`, up to its name. ne: numbers along each dimension, the innermost first; nb: its steps in bytes."""

    _fields_ = [
        ("type", c_int32),
        ("buffer", c_void_p),
        ("ne", c_int64 * 4),
        ("nb", c_size_t * 4),
        ("op", c_int32),
        ("op_params", c_int32 * 16),
        ("flags", c_int32),
        ("src", c_void_p * 10),
        ("view_src", c_void_p),
        ("view_offs", c_size_t),
        ("data", c_void_p),
        ("name", c_char * 64),
    ]


@dataclass(slots=True)
class Sums:
    """Of one tensor: squares [matrices, columns] of what its matrices were given, and counts [matrices] of tokens.

    As llama-imatrix has it, a stack that is multiplied whole (`MUL_MAT`) has one count for all of its matrices, which
    lie one after another in the one row.
    """

    squares: NDArray[np.float64]
    counts: NDArray[np.int64]

    @staticmethod
    def none(matrices: int, columns: int) -> Sums:
        """Before any token."""
        return Sums(np.zeros((matrices, columns)), np.zeros(matrices, np.int64))


class Inputs:
    """names: of the tensors whose inputs are summed up. callback: for `cb_eval` of a context's parameters.

    told: called now and then, with how much of an evaluation is done.

    Once the first evaluation has shown that the head comes last, later ones end where its input is known: nothing asks
    for predictions, and the head is a large part of a small model.
    """

    def __init__(self, library: Any, names: Iterable[str], told: Callable[[float], None]) -> None:
        self._library, self._names = library, {name.encode(): name for name in names}
        self._told, self._time = told, 0.0
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._product = next(n for n in count() if library.ggml_op_name(n) == b"MUL_MAT")
        self._chosen = next(n for n in count(self._product) if library.ggml_op_name(n) == b"MUL_MAT_ID")
        self.callback = EvalCallback(self._called)
        self._sums: dict[str, Sums] = {}
        #: Of this evaluation: what was multiplied, and the names of what it was multiplied with.
        self._seen: list[tuple[str, bytes]] = []
        self._products = 0
        self._head: tuple[str, bytes] | None = None
        self._same: tuple[int, NDArray[np.float32]] | None = None
        self._error: Exception | None = None

    def begin(self) -> None:
        """Before an evaluation."""
        self._seen.clear()
        self._same = self._error = None

    def end(self) -> None:
        """After an evaluation; raises `Refused` where what was seen cannot be summed up."""
        if self._error is not None:
            raise self._error
        if not self._products:
            self._products = len(self._seen)
            inputs = [given for _, given in self._seen]
            if self._seen and self._seen[-1][0] in _HEADS and inputs.count(inputs[-1]) == 1:
                self._head = self._seen[-1]
        if self._head is not None and len(self._seen) != self._products:  # it would have ended too early
            raise Refused(f"llama.cpp multiplied {len(self._seen)} matrices, and {self._products} for the first tokens")

    def _called(self, address: int, ask: bool, _: object) -> bool:
        """An exception would be swallowed where this was called from: it is kept, and ends the evaluation."""
        try:
            return self._wanted(Tensor.from_address(address), ask)
        except Exception as error:
            self._error = error
            return False

    def _wanted(self, node: Tensor, ask: bool) -> bool:
        """Whether a node is to be shown; where it is shown, whether the evaluation goes on."""
        if node.op not in (self._product, self._chosen):
            if self._head is None or node.name != self._head[1]:
                return False
            if not ask:
                self._dense(self._head[0], node, (1, 1))
                self._seen.append(self._head)
            return ask
        weight, given = (Tensor.from_address(node.src[n]) for n in range(2))
        name = self._names.get(_own_name(weight.name))
        if name is None or given.type != _F32:
            return False
        if not ask:
            if node.op == self._chosen:
                self._of_experts(name, given, Tensor.from_address(node.src[2]), weight.ne[2])
            else:
                self._dense(name, given, (weight.ne[3], weight.ne[2]))
            self._seen.append((name, given.name))
            self._tell()
        return True

    def _tell(self) -> None:
        """The parent takes a process that says nothing for dead."""
        if time.monotonic() > self._time + _EVERY:
            self._time = time.monotonic()
            self._told(len(self._seen) / self._products if self._products else 0.0)

    def _dense(self, name: str, given: Tensor, stack: tuple[int, int]) -> None:
        """given: [.., .., tokens, columns], multiplied with the matrices of a stack, each with as many."""
        address = ctypes.addressof(given)
        if self._same is None or self._same[0] != address:  # q, k and v are given the same
            x = self._values(given, np.float32)
            self._same = (address, (x * x).sum(2))
        squares = self._same[1]
        outer, inner, columns = squares.shape
        each = squares.reshape(stack[0], outer // stack[0], stack[1], inner // stack[1], columns).sum((1, 3))
        _check(name, each)
        matrices = stack[0] * stack[1]
        sums = self._sums.setdefault(name, Sums.none(1, matrices * columns))
        sums.squares[0] += each.reshape(-1)
        sums.counts += outer * inner * given.ne[1] // matrices

    def _of_experts(self, name: str, given: Tensor, choice: Tensor, experts: int) -> None:
        """given: [1, tokens, chosen or 1, columns]. choice: [1, 1, tokens, chosen], the experts of each."""
        x, chosen = self._values(given, np.float32)[0], self._values(choice, np.int32)[0, 0]
        order = np.argsort(chosen, axis=None, kind="stable")
        tokens, places = np.unravel_index(order, chosen.shape)
        rows = x[tokens, places % x.shape[1]]
        reached, starts, counts = np.unique(chosen.reshape(-1)[order], return_index=True, return_counts=True)
        squares = np.add.reduceat(rows * rows, starts, axis=0)
        _check(name, squares)
        sums = self._sums.setdefault(name, Sums.none(experts, x.shape[-1]))
        sums.squares[reached] += squares
        sums.counts[reached] += counts

    def _values(self, tensor: Tensor, kind: type[np.generic]) -> NDArray[Any]:
        """All four dimensions, the outermost first; a copy where they are not in this machine's memory."""
        address, nbytes = ctypes.addressof(tensor), self._library.ggml_nbytes(ctypes.addressof(tensor))
        if self._library.ggml_backend_buffer_is_host(tensor.buffer):
            held: Any = (ctypes.c_ubyte * nbytes).from_address(tensor.data)
        else:
            held = (ctypes.c_ubyte * nbytes)()
            self._library.ggml_backend_tensor_get(address, held, 0, nbytes)
        return np.ndarray(tuple(tensor.ne)[::-1], kind, held, strides=tuple(tensor.nb)[::-1])

    def answer(self) -> tuple[dict[str, Any], NDArray[np.float64]]:
        """All sums, one after another, and what each is of; those that come next begin with nothing."""
        entries = [[name, *sums.squares.shape, sums.counts.tolist()] for name, sums in self._sums.items()]
        parts = [sums.squares.reshape(-1) for sums in self._sums.values()]
        self._sums.clear()
        return {"entries": entries}, np.concatenate([np.zeros(0), *parts])


def _own_name(name: bytes) -> bytes:
    """Without what a scheduler of several devices puts around it: CUDA0#blk.0.attn_k.weight#0."""
    return name.split(b"#")[1] if b"#" in name else name


def _check(name: str, squares: NDArray[np.float32]) -> None:
    if not np.isfinite(squares).all():
        raise Refused(f"the inputs of {name} hold NaN or infinities: its weights, or those before it, are damaged")
