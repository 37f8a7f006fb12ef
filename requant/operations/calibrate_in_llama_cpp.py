"""Run a GGUF over text in llama.cpp and sum up what its matrices are given: every architecture that it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from requant.calibration.resuming import Key, keep, read_kept
from requant.errors import PlanError
from requant.expressions import Stored
from requant.importance import Measured
from requant.ir import Checkpoint, Tensor
from requant.operations.calibrate import Progress, Request, as_prose, cut, key_of, said_of, texts_of
from requant.operations.roles import measure_roles
from requant.plan import Step
from requant.statistics import LLAMA_CPP, Statistics
from requant.verify.llama_cpp import LlamaCpp, find_library
from requant.verify.llama_inputs import Sums

_PARTS: Final = ("squares", "counts")


def calibrate_in_llama_cpp(
    path: Path, model: Checkpoint[Tensor], request: Request, progress: Progress = lambda stage, fraction: None
) -> Statistics:
    """path: what llama.cpp loads; model: its tensors.

    Weights are multiplied as they are stored, which of quantized ones means with inputs that are rounded to 8 bits;
    keys and values are kept in F32. Raises `PlanError` for a text that is too short and for what this engine cannot
    measure, `UnsupportedError` without xllamacpp, and `VerifyError` for a model that llama.cpp does not run.
    """
    if request.gradients or request.hessians is not None:
        raise PlanError("llama.cpp shows what matrices are given, and no more", hint="the engine torch measures more")
    described = [(tensor.name, tensor.shape) for tensor in model.tensors]
    names = [name for name, shape in described if len(shape) > 1]
    with ExitStack() as stack:
        llama = stack.enter_context(_opened(path, names, request, progress))
        if not llama.info.causal:  # an encoder is opened as one
            stack.enter_context(llama := _opened(path, names, request, progress, encoder=True))
        windows = windows_in(llama, request)
        kept = _Kept(request.work, _key(model, windows, request))
        length, total = len(windows[0]), len(windows) * len(windows[0])
        batch, before = min(llama.measured_at_once, length), kept.done * length
        llama.progress = lambda part: progress("reading", (before + llama.tokens_read + part * batch) / total)
        for window in windows[kept.done :]:
            llama.measure(window)
            kept.add(llama.measured())
            llama.progress(0.0)
    inputs = {name: Measured(one.squares.astype(np.float32), one.counts) for name, one in kept.sums.items()}
    found = Statistics(*said_of(request, windows, inputs, described, LLAMA_CPP))
    if request.roles is None:
        return found
    return replace(found, roles=measure_roles(path, model, found, windows, request.roles, progress))


class _Kept:
    """The sums of the windows that are done, added up one window after another, and kept after each in a folder.

    folder: None keeps nothing. Raises `PlanError` for one in which another calibration lies.
    """

    def __init__(self, folder: Path | None, key: Key) -> None:
        self._folder, self._key = folder, key
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        said, arrays = read_kept(folder, key) if folder is not None else ({}, {})
        self.done: int = said.get("done", 0)
        names: list[str] = said.get("names", [])
        self.sums = {name: Sums(arrays[f"squares{n}"], arrays[f"counts{n}"]) for n, name in enumerate(names)}

    def add(self, found: Mapping[str, Sums]) -> None:
        """Of one more window."""
        for name, one in found.items():
            total = self.sums.setdefault(name, Sums.none(*one.squares.shape))
            total.squares += one.squares
            total.counts += one.counts
        self.done += 1
        if self._folder is not None:
            arrays = {f"{part}{n}": getattr(one, part) for n, one in enumerate(self.sums.values()) for part in _PARTS}
            keep(self._folder, self._key, {"done": self.done, "names": list(self.sums)}, arrays)


def _key(model: Checkpoint[Tensor], windows: Sequence[tuple[int, ...]], request: Request) -> Key:
    steps = (Step(Stored(tensor), tensor) for tensor in model.tensors)
    return key_of(steps, windows, 0, request.seed, f"{LLAMA_CPP} {find_library()[1]}")


def _opened(path: Path, names: list[str], request: Request, progress: Progress, encoder: bool = False) -> LlamaCpp:
    return LlamaCpp(
        path,
        n_ctx=request.window,
        precise=True,
        embeddings=encoder,
        measured=names,
        progress=lambda fraction: progress("loading", fraction),
    )


def windows_in(llama: LlamaCpp, request: Request) -> list[tuple[int, ...]]:
    """Windows of llama.cpp's tokens; cut from the texts as llama-imatrix does."""
    plain, chats = texts_of(request)
    ids = [token for text in plain for token in llama.tokenize(text)]
    for turns in chats:
        chat = llama.chat([(turn["role"], turn["content"]) for turn in turns], reply=False)
        ids += llama.tokenize(as_prose(turns)) if chat is None else llama.tokenize(chat, parse_special=True)
    return cut(ids, llama.n_vocab, llama.info.begins_with, request)
