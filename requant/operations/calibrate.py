"""Run a model over text and sum up what its matrices are given, and how much their outputs matter."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from requant.errors import PlanError, UnsupportedError, VerifyError
from requant.expressions import Stored
from requant.formats import FORMATS
from requant.formats.imatrix.statistics import statistics_checkpoint
from requant.importance import Importance, Measured
from requant.layout import LayoutOptions
from requant.plan import Plan, Step
from requant.statistics import LEAST_TOKENS, Provenance, Statistics, check_finite, fingerprint

if TYPE_CHECKING:
    from requant.calibration.resuming import Key
    from requant.calibration.skeleton import Skeleton

#: Tokens of which gradients are taken, at most, unless another number is asked for.
GRADIENT_TOKENS: Final = 8192
#: The texts that come with the package, in the order in which they are read.
_TEXTS: Final = ("prose.txt", "code.txt", "languages.txt")

Progress = Callable[[str, float], None]
#: A conversation: of each turn, its `role` and its `content`.
Turns = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Request:
    """texts: (name, text); none are the package's own. tokens: at most so many are read, spread over all of them.

    window: tokens of one window. gradients: whether outputs are measured, too, of `gradient_tokens` at most. seed: of
    the choice of windows with gradients and of the labels that are drawn. hessians: a folder in which Σ x xᵀ of every
    matrix's inputs are kept until they are written; None measures none. work: a folder in which all that is found is
    kept after every layer (in llama.cpp: every window), and from which a calibration that was ended goes on; the caller
    removes it. roles: of llama.cpp, a folder with room for the model, in which it lies with one role of its matrices
    rounded; None measures none.
    """

    texts: tuple[tuple[str, str], ...] = ()
    tokens: int | None = None
    window: int = 512
    gradients: bool = False
    seed: int = 0
    hessians: Path | None = None
    gradient_tokens: int = GRADIENT_TOKENS
    work: Path | None = None
    roles: Path | None = None


def check_installed() -> None:
    """Raises `UnsupportedError` without torch and transformers."""
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        raise UnsupportedError("calibrating needs torch and transformers", hint='pip install "requant[torch]"')


def calibrate(plan: Plan, request: Request, progress: Progress = lambda stage, fraction: None) -> Statistics:
    """plan: the model as a folder of plain numbers, of which nothing is written.

    Raises `PlanError` for a text that is too short and for sums that are no numbers, `UnsupportedError` and
    `VerifyError` for a model that transformers does not run.
    """
    check_installed()
    from requant.calibration.kept import Kept
    from requant.calibration.layerwise import Layerwise
    from requant.calibration.naming import (
        ggml_moves,
        hessians_in_ggml_names,
        in_ggml_names,
    )
    from requant.calibration.outer import Outer
    from requant.calibration.skeleton import Skeleton
    from requant.calibration.trials import TRIALS

    moves = ggml_moves(plan)
    with _folder_of(request) as folder:
        skeleton = Skeleton(plan, folder)
        if request.gradients and not skeleton.causal:
            raise PlanError("gradients are of predictions, and an encoder predicts no next token")
        windows = windows_of(skeleton, folder, request)
        graded = min(len(windows), -(-request.gradient_tokens // request.window)) if request.gradients else 0
        outer = None if request.hessians is None else Outer(request.hessians / "hessians")
        kept = None
        if request.work is not None:
            key = key_of(plan.steps, windows, graded, request.seed, "torch")
            kept = Kept(request.work, {**key, "set of trials": str(TRIALS)})
        layers = Layerwise(skeleton, windows, folder, request.seed, outer, kept)
        layers.run(graded, progress)
    tables = in_ggml_names(layers.record, moves)
    described = [(move.name, move.shape) for move in moves]
    importance, provenance = said_of(request, windows, tables.inputs, described, "torch", graded)
    hessians = {} if outer is None else hessians_in_ggml_names(outer, moves, tables.inputs)
    found = Statistics(
        importance,
        provenance,
        tables.outputs,
        tables.lookups,
        hessians,
        tables.weighted,
        tables.noise,
        tables.influences,
        tables.trials,
    )
    check_finite(found)
    return found


def said_of(
    request: Request,
    windows: Sequence[tuple[int, ...]],
    inputs: Mapping[str, Measured],
    described: Iterable[tuple[str, tuple[int, ...]]],
    engine: str,
    graded: int = 0,
) -> tuple[Importance, Provenance]:
    """The inputs and where they came from. described: names and shapes of the model's tensors, as in a GGUF.

    graded: of how many windows gradients were taken. Raises `UnsupportedError` where nothing was measured.
    """
    if not inputs:
        raise UnsupportedError("none of the products of this model could be told by a name of GGUF")
    length = len(windows[0])
    datasets = tuple(label for label, _ in request.texts) or tuple(f"requant:{label}" for label in (*_TEXTS, "chat"))
    provenance = Provenance(
        fingerprint(described),
        (_tokens_hash(token for window in sorted(windows) for token in window),),
        length * len(windows),
        length * graded,
        request.seed,
        engine,
    )
    return Importance(inputs, datasets, len(windows), length), provenance


def plan_statistics(found: Statistics, destination: Path) -> Plan:
    """What was found, as a GGUF."""
    checkpoint = statistics_checkpoint(found)
    steps = tuple(Step(Stored(tensor), tensor) for tensor in checkpoint.tensors)
    return Plan(steps, FORMATS["gguf"].layout(checkpoint, destination, LayoutOptions()))


@contextmanager
def _folder_of(request: Request) -> Iterator[Path]:
    """Where states between layers lie."""
    if request.work is not None:
        if request.hessians is not None:
            raise PlanError("sums of x xᵀ are not kept from one run to another", hint="calibrate without --resume")
        request.work.mkdir(parents=True, exist_ok=True)
        yield request.work
        return
    with tempfile.TemporaryDirectory(prefix="requant-calibrate-") as name:
        yield Path(name)


def key_of(steps: Iterable[Step], windows: Sequence[tuple[int, ...]], graded: int, seed: int, engine: str) -> Key:
    """Of all that changes what is found. steps: of the model, as it is read."""
    from requant.divergence_cache import digest_of

    model = hashlib.sha256()
    for step in steps:
        model.update(digest_of(step).encode())
    text = _tokens_hash(token for window in sorted(windows) for token in window)
    numbers = {"size of windows": len(windows[0]), "number of tokens with gradients": graded * len(windows[0])}
    said = {name: str(value) for name, value in numbers.items()}
    return {"model": model.hexdigest(), "text": text, "seed": str(seed), **said, "engine": engine}


def windows_of(skeleton: Skeleton, folder: Path, request: Request) -> list[tuple[int, ...]]:
    """Windows of tokens in an order drawn by the seed; cut from the texts as llama-imatrix does."""
    import transformers

    from requant.verify.transformers import quiet

    with quiet():
        try:
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # whatever its many loaders raise
            raise VerifyError(f"transformers cannot load the model's tokenizer: {error}") from error
        plain, chats = texts_of(request)
        texts = [*plain, *(_chat(tokenizer, turns) or as_prose(turns) for turns in chats)]
        ids = [int(token) for text in texts for token in tokenizer(text)["input_ids"]]
    first = tokenizer("").get("input_ids") or []
    vocabulary = skeleton.model.get_input_embeddings().weight.shape[0]
    return cut(ids, vocabulary, int(first[0]) if first else None, request)


def cut(ids: Sequence[int], vocabulary: int, first: int | None, request: Request) -> list[tuple[int, ...]]:
    """Tokens of a text in windows. vocabulary: rows of the embedding; first: what each window begins with, if it does.

    Raises `PlanError` for a text that is too short.
    """
    from requant.verify.logits import windows

    if ids and max(ids) >= vocabulary:
        raise PlanError(f"the tokenizer gives token {max(ids)}, and the embedding has {vocabulary} rows")
    if len(ids) < min(LEAST_TOKENS, request.tokens or LEAST_TOKENS) or len(ids) < request.window:
        raise PlanError(
            f"the text has {len(ids)} tokens, too few to calibrate with",
            hint=f"give at least {max(LEAST_TOKENS, request.window)}; tens of thousands are usual",
        )
    found = windows(ids, request.window, None, first)
    most = len(found) if request.tokens is None else max(1, request.tokens // request.window)
    chosen = [
        found[i].tokens for i in np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    ]
    order = np.random.default_rng(request.seed).permutation(len(chosen))
    return [chosen[i] for i in order]


def texts_of(request: Request) -> tuple[list[str], list[Turns]]:
    """What is read: the user's texts as one; or our own, and conversations besides."""
    if request.texts:
        return ["".join(text for _, text in request.texts)], []
    here = files("requant.calibration")
    return [(here / name).read_text("utf-8") for name in _TEXTS], json.loads((here / "chat.json").read_text("utf-8"))


def as_prose(turns: Turns) -> str:
    """A conversation of which the model has no template."""
    return "\n\n".join(turn["content"] for turn in turns) + "\n\n"


def _chat(tokenizer: Any, turns: Turns) -> str | None:
    """A conversation in the model's own template; None where it has none that takes it."""
    if getattr(tokenizer, "chat_template", None):
        with suppress(Exception):  # templates are programs, and some refuse a system's turn
            return str(tokenizer.apply_chat_template(turns, tokenize=False))
    return None


def _tokens_hash(tokens: Iterable[int]) -> str:
    """Of the tokens that were read."""
    return hashlib.sha256(np.fromiter(tokens, np.int64).astype("<i8").tobytes()).hexdigest()
