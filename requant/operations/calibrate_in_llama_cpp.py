"""Run a GGUF over text in llama.cpp and sum up what its matrices are given: every architecture that it runs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor
from requant.operations.calibrate import Progress, Request, as_prose, cut, said_of, texts_of
from requant.statistics import Statistics
from requant.verify.llama_cpp import LlamaCpp


def calibrate_in_llama_cpp(
    path: Path, model: Checkpoint[Tensor], request: Request, progress: Progress = lambda stage, fraction: None
) -> Statistics:
    """path: what llama.cpp loads; model: its tensors.

    Weights are multiplied as they are stored, which of quantized ones means with inputs that are rounded to 8 bits;
    keys and values are kept in F32. Raises `PlanError` for a text that is too short and for what this engine cannot
    measure, `UnsupportedError` without xllamacpp, and `VerifyError` for a model that llama.cpp does not run.
    """
    if request.gradients or request.hessians is not None or request.work is not None:
        raise PlanError("llama.cpp shows what matrices are given, and no more", hint="the engine torch measures more")
    described = [(tensor.name, tensor.shape) for tensor in model.tensors]
    names = [name for name, shape in described if len(shape) > 1]
    with ExitStack() as stack:
        llama = stack.enter_context(_opened(path, names, request, progress))
        if not llama.info.causal:  # an encoder is opened as one
            stack.enter_context(llama := _opened(path, names, request, progress, encoder=True))
        windows = windows_in(llama, request)
        total, batch = len(windows) * len(windows[0]), min(llama.measured_at_once, len(windows[0]))
        llama.progress = lambda fraction: progress("reading", (llama.tokens_read + fraction * batch) / total)
        for window in windows:
            llama.measure(window)
            llama.progress(0.0)
        inputs = llama.measured()
    importance, provenance = said_of(request, windows, inputs, described, "llama.cpp")
    return Statistics(importance, provenance)


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
    return cut(ids, llama.n_vocab, llama.info.bos if llama.info.add_bos else None, request)
