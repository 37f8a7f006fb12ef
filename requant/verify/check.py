"""Is a GGUF good? Load it in llama.cpp, let it speak, measure it, compare it with what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from requant.errors import PlanError, VerifyError
from requant.verify.llama_cpp import LlamaCpp, ModelInfo
from requant.verify.logits import (
    Comparison,
    Difference,
    Divergence,
    Logits,
    Measure,
    Perplexity,
    Predictor,
    Window,
    scored_blocks,
    windows,
)

Progress = Callable[[str, float], None]
SENTENCES = 16  # paragraphs of the text that an encoder embeds
PROMPT_ROOM = 512  # tokens left for a chat template and the answer
MIN_TOKENS = 16


class Reference(Predictor, Protocol):
    """What a model is compared with."""

    @property
    def label(self) -> str:
        """Who computed it."""
        ...

    def embed(self, tokens: Sequence[int]) -> Logits:
        """A sequence's embedding."""
        ...


#: Opens the reference once it is known whether the model is an encoder.
OpenReference = Callable[[bool], AbstractContextManager[Reference]]


@dataclass(frozen=True, slots=True)
class Trial:
    """What is asked of the model.

    prompt: "" for none. raw: as it is, without the chat template. expect: what the answer must contain, in any case.
    texts: what perplexity is measured on. n_ctx, chunks: window length in tokens, and how many of all texts together,
    as many of each (None for all there are).
    """

    prompt: str = "The capital of France is"
    raw: bool = False
    expect: str = ""
    answer_tokens: int = 48
    texts: tuple[str, ...] = ("",)
    n_ctx: int = 512
    chunks: int | None = 4
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a model may be from its reference before it fails.

    The defaults let a healthy 4-bit quantization of a small model pass (small models suffer most) and catch a broken
    one: a wrong row order, tokenizer or scale costs whole nats. For 8-bit files ask for more.
    """

    max_kl: float = 0.2
    min_top1: float = 0.75
    max_ppl_ratio: float = 1.15
    min_cosine: float = 0.98


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said. chat: whether the prompt went through the model's chat template."""

    prompt: str
    text: str
    chat: bool
    tokens: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Against:
    """The comparison with a reference; `divergence` for a language model, `cosine` (the worst) for an encoder."""

    reference: str
    tokens_equal: bool
    perplexity: Measure | None = None
    divergence: Divergence | None = None
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Versus:
    """A second model beside the same reference, on the same tokens. real: whether their difference is."""

    model: str
    perplexity: Measure
    divergence: Divergence
    difference: Difference
    deviations: float
    real: bool


#: What llama.cpp's words are in documents, which have one word for a thing.
_WORDS: Final = {"nbytes_weights": "tensor_bytes", "n_vocab": "tokens", "n_ctx_train": "context", "n_embd": "width"}


@dataclass(slots=True)
class Report:
    """What came out; `failures` empty means the model passed. embedded: texts that an encoder embedded."""

    model: Path
    info: ModelInfo
    warnings: tuple[str, ...] = ()
    answer: Answer | None = None
    perplexity: Measure | None = None
    scored_tokens: int = 0
    window: int = 0
    tokens_per_second: float | None = None
    embedded: int = 0
    against: Against | None = None
    versus: Versus | None = None
    failures: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it, in JSON's types."""
        info = {_WORDS.get(name, name): value for name, value in asdict(self.info).items()}
        return {"ok": not self.failures, **asdict(self), "info": info, "model": str(self.model)}


def default_text() -> str:
    """A few pages of English prose, written for this package: nothing a model can know by heart."""
    return (files("requant.verify") / "text.txt").read_text("utf-8")


def check_model(
    model: Path,
    trial: Trial,
    limits: Limits | None = None,
    open_reference: OpenReference | None = None,
    progress: Progress = lambda stage, fraction: None,
    other: Path | None = None,
) -> Report:
    """Try `model` out; a model that merely does badly is in `Report.failures`, one that cannot run is a VerifyError.

    other: another GGUF, which is compared with the same reference.
    """
    n_ctx = max(trial.n_ctx, len(trial.prompt.encode()) + PROMPT_ROOM + trial.answer_tokens)

    def loading(fraction: float) -> None:
        progress("loading", fraction)

    with LlamaCpp(model, n_ctx=n_ctx, threads=trial.threads, progress=loading) as llama:
        if llama.info.causal:
            llama.progress = lambda fraction: progress("answering", fraction)
            return _check_decoder(llama, trial, limits or Limits(), open_reference, progress, other)
    if other is not None:
        raise PlanError(f"{model} is an encoder, which predicts nothing that two could be compared by")
    with LlamaCpp(model, n_ctx=trial.n_ctx, threads=trial.threads, embeddings=True, progress=loading) as llama:
        return _check_encoder(llama, trial, limits or Limits(), open_reference, progress)


def _check_decoder(
    llama: LlamaCpp,
    trial: Trial,
    limits: Limits,
    open_reference: OpenReference | None,
    progress: Progress,
    other: Path | None,
) -> Report:
    report = Report(llama.model, llama.info)
    if trial.prompt:
        report.answer = answer(llama, trial)
        if trial.expect.casefold() not in report.answer.text.casefold():
            report.failures.append(f"the answer does not contain {trial.expect!r}")
    if open_reference is None:
        _measure(llama, trial, report, progress)
    else:
        with ExitStack() as stack:
            reference = stack.enter_context(open_reference(False))
            second = None
            if other is not None:
                second = stack.enter_context(LlamaCpp(other, n_ctx=trial.n_ctx, threads=trial.threads))
            _compare(llama, reference, second, trial, limits, report, progress)
    report.tokens_per_second = llama.tokens_read / max(llama.seconds_reading, 1e-9)
    report.warnings = llama.warnings
    return report


def answer(llama: LlamaCpp, trial: Trial) -> Answer:
    """Greedy answer to the prompt."""
    chat = None if trial.raw else llama.chat([("user", trial.prompt)])
    tokens = llama.tokenize(trial.prompt if chat is None else chat, parse_special=chat is not None)
    if tokens[:2] == [llama.info.bos] * 2:  # some templates write the bos that the tokenizer adds
        tokens = tokens[1:]
    made = llama.generate(tokens, trial.answer_tokens)
    rate = len(made.tokens) / max(made.seconds, 1e-9)
    return Answer(trial.prompt, made.text, chat is not None, len(made.tokens), rate)


def _cut(llama: LlamaCpp, trial: Trial, report: Report) -> tuple[list[int], list[Window]]:
    """The tokens of all texts, and the windows to measure."""
    info, every, work = llama.info, list[int](), list[Window]()
    limit = None if trial.chunks is None else -(-trial.chunks // len(trial.texts))
    for text in trial.texts:
        tokens = llama.tokenize(text)
        if len(tokens) < MIN_TOKENS:
            raise PlanError(
                f"the text has {len(tokens)} tokens, too few to measure", hint=f"give at least {MIN_TOKENS}"
            )
        every += tokens
        work += windows(tokens, min(trial.n_ctx, info.n_ctx_train), limit, info.begins_with)
    report.window = max(len(window.tokens) for window in work)
    return every, work


def _measure(llama: LlamaCpp, trial: Trial, report: Report, progress: Progress) -> None:
    _, work = _cut(llama, trial, report)
    perplexity, total = Perplexity(), sum(window.scored for window in work)
    for (logits,), targets in scored_blocks([llama], work):
        perplexity.add(logits, targets)
        progress("measuring", perplexity.count / total)
    report.perplexity, report.scored_tokens = perplexity.measure(), perplexity.count


def _compare(
    llama: LlamaCpp,
    reference: Reference,
    other: LlamaCpp | None,
    trial: Trial,
    limits: Limits,
    report: Report,
    progress: Progress,
) -> None:
    tokens, work = _cut(llama, trial, report)
    candidates = [llama] if other is None else [llama, other]
    for one in candidates:
        if reference.n_vocab != one.n_vocab:
            raise VerifyError(f"{one.model}: {one.n_vocab} tokens, but the reference has {reference.n_vocab}")
    expected = [token for text in trial.texts for token in reference.tokenize(text)]
    same = _same_tokens(tokens, expected, report)
    comparisons, total = [Comparison() for _ in candidates], sum(window.scored for window in work)
    for (truth, *found_here), targets in scored_blocks([reference, *candidates], work):
        for made, logits in zip(comparisons, found_here, strict=True):
            made.add(logits, truth, targets)
        progress("comparing", comparisons[0].model.count / total)
    comparison = comparisons[0]
    if other is not None:
        report.versus = _versus(other, *comparisons)
    found = comparison.measure()
    report.perplexity, report.scored_tokens = comparison.model.measure(), comparison.model.count
    report.against = Against(reference.label, same, comparison.reference.measure(), found)
    if found.kl.value > limits.max_kl:
        report.failures.append(f"KL divergence {found.kl.value:.4f} is above {limits.max_kl:g}")
    if found.top1.value < limits.min_top1:
        report.failures.append(f"top-1 agreement {found.top1.value:.1%} is below {limits.min_top1:.1%}")
    if found.ratio.value > limits.max_ppl_ratio:
        report.failures.append(f"perplexity ratio {found.ratio.value:.4f} is above {limits.max_ppl_ratio:g}")


def _versus(other: LlamaCpp, ours: Comparison, theirs: Comparison) -> Versus:
    difference = ours.difference(theirs)
    return Versus(
        str(other.model),
        theirs.model.measure(),
        theirs.measure(),
        difference,
        difference.deviations,
        difference.is_real,
    )


def _same_tokens(tokens: list[int], expected: list[int], report: Report) -> bool:
    if tokens == expected:
        return True
    at = next((i for i, (a, b) in enumerate(zip(tokens, expected, strict=False)) if a != b), -1)
    at = min(len(tokens), len(expected)) if at < 0 else at
    here, there = tokens[at : at + 3], expected[at : at + 3]
    report.failures.append(f"the tokenizers disagree from token {at} on: {here} here, {there} in the reference")
    return False


def _check_encoder(
    llama: LlamaCpp, trial: Trial, limits: Limits, open_reference: OpenReference | None, progress: Progress
) -> Report:
    """An encoder answers nothing: its embeddings are looked at instead."""
    report = Report(llama.model, llama.info)
    texts = [line for text in trial.texts for line in text.splitlines() if line.strip()][:SENTENCES]
    limit = min(trial.n_ctx, llama.info.n_ctx_train)
    tokens = [llama.tokenize(text) for text in texts]
    kept = [i for i, ids in enumerate(tokens) if len(ids) <= limit]
    if not kept:
        raise PlanError(f"no line of the text fits into {limit} tokens")
    found = []
    for done, i in enumerate(kept, 1):
        found.append(llama.embed(tokens[i]).mean(0))
        progress("embedding", done / len(kept))
        if not np.isfinite(found[-1]).all() or not found[-1].any():
            raise VerifyError(f"{llama.model}: the embedding of a text holds NaN, infinities or only zeros")
    report.warnings, report.embedded = llama.warnings, len(found)
    if open_reference is not None:
        with open_reference(True) as reference:
            same = all(_same_tokens(tokens[i], reference.tokenize(texts[i]), report) for i in kept)
            cosines = [
                _cosine(vector, reference.embed(tokens[i]).mean(0)) for vector, i in zip(found, kept, strict=True)
            ]
        report.against = Against(reference.label, same, cosine=min(cosines))
        if min(cosines) < limits.min_cosine:
            report.failures.append(f"cosine similarity {min(cosines):.5f} is below {limits.min_cosine:g}")
    return report


def _cosine(a: Logits, b: Logits) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
