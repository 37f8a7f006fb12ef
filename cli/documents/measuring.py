"""`check --json`, `calibrate --json`, `--frontier --json`."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from requant.cli.documents.shared import Document, OutputFile, Real


class Figure(TypedDict):
    """A figure and its standard error."""

    value: Annotated[Real, "the figure"]
    error: Annotated[Real, "its standard error"]


class Loaded(TypedDict):
    """What llama.cpp says of a model it has loaded."""

    description: Annotated[str, "its words"]
    parameters: Annotated[int, "numbers in all tensors"]
    tensor_bytes: Annotated[int, "bytes of all tensors"]
    tokens: Annotated[int, "of the vocabulary"]
    context: Annotated[int, "tokens it was trained with"]
    width: Annotated[int, "of an embedding"]
    causal: Annotated[bool, "whether it predicts the next token; an encoder does not"]
    bos: Annotated[int, "token; -1 for none"]
    eos: Annotated[int, "token; -1 for none"]
    add_bos: Annotated[bool, "whether the tokenizer puts `bos` first"]
    chat_template: Annotated[str | None, "its source"]
    seconds: Annotated[float, "that loading took"]


class Said(TypedDict):
    """What the model said."""

    prompt: Annotated[str, "as given"]
    text: Annotated[str, "the answer"]
    chat: Annotated[bool, "whether the prompt went through the chat template"]
    tokens: Annotated[int, "of the answer"]
    tokens_per_second: Annotated[float, "generated"]


class Divergences(TypedDict):
    """A language model beside its reference."""

    kl: Annotated[Figure, "Kullback-Leibler divergence, mean over positions, in nats"]
    kl_99: Annotated[Real, "of the worst hundredth"]
    kl_99_error: Annotated[Real, "its standard error, by drawing positions again"]
    kl_max: Annotated[Real, "of the worst"]
    kl_max_error: Annotated[Real, "the same of it: a rough guess"]
    top1: Annotated[Figure, "share of positions with the same likeliest token"]
    ratio: Annotated[Figure, "perplexity over the reference's"]


class Compared(TypedDict):
    """The comparison with a reference."""

    reference: Annotated[str, "who computed it"]
    tokens_equal: Annotated[bool, "whether both tokenizers agree on the text"]
    perplexity: Annotated[Figure | None, "of the reference"]
    divergence: Annotated[Divergences | None, "of a language model"]
    cosine: Annotated[Real | None, "of an encoder: the worst similarity"]


class Difference(TypedDict):
    """Two models beside one reference, position by position."""

    kl: Annotated[Figure, "the model's KL divergence less the other's, mean over positions; below 0 it is better"]
    closer: Annotated[Figure, "share of positions at which it is nearer to the reference"]


class VersusDocument(TypedDict):
    """A second model beside the same reference, on the same tokens."""

    model: Annotated[str, "the file"]
    perplexity: Annotated[Figure, "of the text"]
    divergence: Annotated[Divergences, "as of the first"]
    difference: Annotated[Difference, "of both"]
    deviations: Annotated[float, "how many standard errors `difference.kl` is from 0"]
    real: Annotated[bool, "whether these are more than chance would make: 2"]


class CheckDocument(Document):
    """`check`: what `check --json` prints; a model that does badly has `failures`, and ends in exit code 5."""

    ok: Annotated[bool, "whether it passed"]
    model: Annotated[str, "the file"]
    info: Annotated[Loaded, "what it is"]
    warnings: Annotated[list[str], "of llama.cpp's log"]
    answer: Annotated[Said | None, "to the prompt"]
    perplexity: Annotated[Figure | None, "of the text"]
    scored_tokens: Annotated[int, "whose prediction was measured"]
    window: Annotated[int, "tokens of a window"]
    tokens_per_second: Annotated[float | None, "read"]
    embedded: Annotated[int, "texts that an encoder has embedded"]
    against: Annotated[Compared | None, "with `--against`"]
    versus: Annotated[VersusDocument | None, "with `--versus`"]
    relative_errors: NotRequired[Annotated[dict[str, Real], "with `--against` and `--html`: tensor -> as in `receipt`"]]
    failures: Annotated[list[str], "why it failed; empty where it passed"]


class FrontierPoint(TypedDict):
    """The best of a size."""

    bytes: Annotated[int, "of all files"]
    bits_per_weight: Annotated[float, "stored bits of one weight"]
    expected_kl: Annotated[float, "predicted KL divergence, nats per token"]


class FrontierMix(FrontierPoint):
    """A mix of llama.cpp's."""

    recipe: Annotated[str, "its name"]
    best_kl: Annotated[float | None, "what the best of its size is expected to have; null below the smallest"]


class FrontierDocument(Document):
    """`frontier`: what `--frontier --json` prints."""

    parameters: Annotated[int, "numbers in all tensors"]
    points: Annotated[list[FrontierPoint], "from the smallest to the largest, eight for each bit per weight at most"]
    mixes: Annotated[list[FrontierMix], "from the smallest to the largest"]


class CalibrationDocument(Document):
    """`calibration`: what `calibrate --json` prints."""

    files: Annotated[list[OutputFile], "what was written"]
    tensors: Annotated[int, "whose inputs were measured"]
    tokens: Annotated[int, "that were read"]
    gradient_tokens: Annotated[int, "of which gradients were taken"]
    hessians: Annotated[int, "sums of x xᵀ in the file: matrices that are given the same share one"]
    roles: Annotated[list[str], "of matrices, whose rounding was measured: attn_q"]
    window: Annotated[int, "tokens of a window"]
    engine: Annotated[str, "what ran the model: torch, or llama.cpp"]
    model: Annotated[str, "SHA-256 of the names and shapes of its tensors"]
    texts: Annotated[list[str], "SHA-256 of the tokens of each calibration"]
    unreached: Annotated[dict[str, int], "tensor -> how many of its experts no token reached"]
