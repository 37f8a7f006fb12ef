"""Which of llama.cpp's pre-tokenizers does what a tokenizer.json does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from requant.json_values import Item
from requant.losses import Loss, LossKind
from requant.patterns import Patience
from requant.tokenizers.files import Files
from requant.tokenizers.pre_tokenizers import BY_NAME, PRE_TOKENIZERS, PreTokenizer
from requant.tokenizers.splitting import Split, UnknownStep, probes, run, steps_of

SUBJECT = "tokenizer.ggml.pre"


@dataclass(frozen=True, slots=True)
class Recognized:
    """The row of llama.cpp's table, and what it does differently from the tokenizer."""

    row: PreTokenizer
    losses: tuple[Loss, ...] = ()

    @property
    def name(self) -> str:
        """What `tokenizer.ggml.pre` says."""
        return self.row.name


#: Families of one tokenizer, known to llama.cpp by this name; where several names cut alike, it is taken.
_FAMILIES = {"gpt_oss": "gpt-4o"}


def recognize(tokenizer: Item, tokenizer_config: Item, architecture: str = "") -> Recognized:
    """Find the pre-tokenizer that cuts as this tokenizer.json does; the closest, and a Loss, when none does."""
    wanted = _Wanted.of(tokenizer, tokenizer_config)
    losses = list(_normalizer_losses(tokenizer.get("normalizer"))) + list(
        _prefix_losses(tokenizer.get("pre_tokenizer"))
    )
    try:
        steps = steps_of(tokenizer.get("pre_tokenizer"))
        same, example = _same(steps)
    except UnknownStep as unknown:
        row = wanted.choose(tuple(row for row in PRE_TOKENIZERS if row.name == "gpt-2"))
        losses.append(_loss(f"{unknown} is not understood; llama.cpp will cut text into words as {row.name!r} does"))
        return Recognized(row, tuple(losses))
    usual = tuple(row for row in same if row.name == _FAMILIES.get(architecture))
    row = wanted.choose(usual or same)
    if example:
        losses.append(_loss(_difference(row, steps, example)))
    if wanted.ignore_merges and not row.ignore_merges:
        losses.append(_loss("words that are tokens but cannot be merged from smaller ones are cut up (ignore_merges)"))
    return Recognized(row, tuple(losses))


#: Folders without tokenizer.json split as their tokenizer class does; all others as GPT-2.
_CLASSES = {
    "Qwen2Tokenizer": "qwen2",
    "RobertaTokenizer": "roberta-bpe",
    "GPTNeoXTokenizer": "olmo",
    "CohereTokenizer": "command-r",
}
_MODEL_TYPES = {"qwen2": "qwen2", "qwen3": "qwen2", "roberta": "roberta-bpe", "gpt_neox": "olmo", "cohere": "command-r"}


def by_class(files: Files) -> Recognized:
    """The pre-tokenizer of a vocab.json with merges.txt, which do not say how text is split."""
    name = files.json("tokenizer_config.json").get("tokenizer_class").value
    name = name.removesuffix("Fast") if isinstance(name, str) else ""
    row = BY_NAME[_CLASSES.get(name, _MODEL_TYPES.get(files.checkpoint.architecture, "gpt-2"))]
    return Recognized(row, (unnormalized(row.normalizer),) if row.normalizer else ())


def _loss(detail: str) -> Loss:
    return Loss(LossKind.TOKENIZER_CHANGED, SUBJECT, detail)


def _difference(row: PreTokenizer, steps: tuple[Split, ...], example: str) -> str:
    patience = Patience()
    theirs, ours = run(tuple(map(Split, row.splits)), example, patience), run(steps, example, patience)
    index = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    return (
        f"no pre-tokenizer of llama.cpp does the same; the closest, {row.name!r}, cuts {example!r} at"
        f" {theirs[index : index + 3]} where the tokenizer cuts {ours[index : index + 3]}"
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What else of a tokenizer a name stands for; decides among names that cut alike."""

    ignore_merges: bool
    normalizer: str
    clean_spaces: bool | None
    add_sep: bool

    @classmethod
    def of(cls, tokenizer: Item, tokenizer_config: Item) -> _Wanted:
        normalizer, post = tokenizer.get("normalizer"), tokenizer.get("post_processor")
        clean = tokenizer_config.get("clean_up_tokenization_spaces").value
        return cls(
            ignore_merges=tokenizer.get("model").get("ignore_merges").flag(),
            normalizer="" if normalizer.value is None else normalizer.get("type").string(),
            clean_spaces=clean if isinstance(clean, bool) else None,
            add_sep=post.value is not None and post.get("type").value == "RobertaProcessing",
        )

    def choose(self, rows: tuple[PreTokenizer, ...]) -> PreTokenizer:
        """The row that agrees in most, ids before looks; the first of equals."""
        return max(
            rows,
            key=lambda row: (
                row.ignore_merges == self.ignore_merges,
                row.normalizer == self.normalizer,
                self.clean_spaces in (None, row.clean_spaces),
                row.add_sep == self.add_sep,
            ),
        )


def _same(steps: tuple[Split, ...]) -> tuple[tuple[PreTokenizer, ...], str]:
    """All rows that cut every probe as `steps` do, and ""; or the closest rows and a text on which they differ."""
    by_splits: dict[tuple[str, ...], list[PreTokenizer]] = {}
    for row in PRE_TOKENIZERS:
        if not row.recognized:
            continue
        by_splits.setdefault(row.splits, []).append(row)
    literal = tuple(step.pattern for step in steps if step == Split(step.pattern))
    if len(literal) == len(steps) and literal in by_splits:
        return tuple(by_splits[literal]), ""
    patience = Patience()
    wanted = [(text, run(steps, text, patience)) for text in probes()]

    def differs(splits: tuple[str, ...]) -> Iterator[str]:
        return (text for text, pieces in wanted if _cut_as(splits, text) != pieces)

    for splits, rows in by_splits.items():
        if next(differs(splits), None) is None:
            return tuple(rows), ""
    wrong = {splits: list(differs(splits)) for splits in by_splits}
    closest = min(wrong, key=lambda splits: len(wrong[splits]))
    return tuple(by_splits[closest]), wrong[closest][0]


@cache
def _cut_as(splits: tuple[str, ...], text: str) -> list[str]:
    """A probe as a row of the table cuts it."""
    return run(tuple(map(Split, splits)), text, Patience())


def _normalizer_losses(normalizer: Item) -> tuple[Loss, ...]:
    """llama.cpp's BPE changes no text before it cuts it."""
    if normalizer.value is None:
        return ()
    kind = normalizer.get("type").string()
    if kind == "Sequence":
        return tuple(loss for part in normalizer.get("normalizers").items() for loss in _normalizer_losses(part))
    return (unnormalized(kind),)


def unnormalized(kind: str) -> Loss:
    """What is lost since llama.cpp does not do this normalization."""
    effect = "text in composed form (the usual) is not affected" if kind == "NFC" else "such text gets other tokens"
    return Loss(LossKind.TOKENIZER_CHANGED, "normalizer", f"llama.cpp does not do {kind}; {effect}")


def _prefix_losses(pre_tokenizer: Item) -> tuple[Loss, ...]:
    if pre_tokenizer.value is None:
        return ()
    kind = pre_tokenizer.get("type").value
    if kind == "Sequence":
        return tuple(loss for part in pre_tokenizer.get("pretokenizers").items() for loss in _prefix_losses(part))
    if kind == "ByteLevel" and pre_tokenizer.get("add_prefix_space").flag(default=True):
        return (_loss("llama.cpp does not put a space in front of the text (add_prefix_space)"),)
    return ()
