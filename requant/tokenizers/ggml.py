"""HF tokenizer files -> `tokenizer.*` metadata, as llama.cpp's convert_hf_to_gguf.py writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from requant.errors import FormatError, PlanError, UnsupportedError
from requant.ir import Checkpoint, Tensor, Typed
from requant.losses import Loss, LossKind
from requant.tokenizers import (
    bpe,
    escaped,
    plamo,
    rwkv,
    sentencepiece,
    spm,
    tekken,
    tiktoken,
    unigram,
    whitespace,
    wordpiece,
)
from requant.tokenizers.files import Files, config_value
from requant.tokenizers.keys import ADD_KEYS, ADD_SPACE_PREFIX, MODEL
from requant.tokenizers.special import named_tokens, special_metadata
from requant.tokenizers.vocabulary import AddedToken, ModelPart, added_tokens, rowless

#: Where SentencePiece models lie, by the name their authors gave them.
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True, slots=True)
class TokenizerOutcome:
    """metadata: every `tokenizer.*` key, in the order in which they are written. losses: what will differ."""

    metadata: dict[str, Typed]
    losses: tuple[Loss, ...] = ()


def to_ggml(checkpoint: Checkpoint[Tensor], vocab_rows: int | None) -> TokenizerOutcome:
    """Read the tokenizer that lies beside a checkpoint's weights.

    vocab_rows: rows of the token embedding; tokens are padded to it with unused `[PADn]`, and more tokens than rows
    are a `PlanError`. None: as many as config.json's vocab_size says, or as there are tokens.
    """
    rows = vocab_rows if vocab_rows is not None else _configured_rows(checkpoint)
    files = Files(checkpoint, rows)
    part = _part(files, rows)
    special = special_metadata(files, checkpoint.config, part.ids, part.added, part.rows)
    if part.add_bos and "tokenizer.json" in files and part.metadata[MODEL].value != "bert":
        # what llama.cpp assumes for this model must not add what the tokenizer does not
        special.setdefault(ADD_KEYS["bos"], Typed("bool", False))
    if checkpoint.architecture == "llama" and rows == 49152:
        # as the reference does for Granite and, by its size, SmolLM
        special.setdefault(ADD_KEYS["bos"], Typed("bool", False))
    metadata = {**part.metadata, **special}
    return TokenizerOutcome(metadata, part.losses + _strip_losses(part.added) + _rowless_losses(files))


def _rowless_losses(files: Files) -> tuple[Loss, ...]:
    """Tokens beyond the embedding; none may be the one that begins or ends a text."""
    losses = []
    named = named_tokens(files)
    for token in rowless(files):
        if token.content in (named.get("bos"), named.get("eos")):
            raise PlanError(
                f"{files.checkpoint.path}: the token embedding has {files.rows} rows, none for {token.content!r} "
                f"({token.id}), which begins or ends a text",
                hint="are the tokenizer files another checkpoint's, or was the embedding not resized for it?",
            )
        detail = f"token {token.id} is left out: the embedding has {files.rows} rows"
        losses.append(Loss(LossKind.TOKENIZER_CHANGED, token.content, detail))
    return tuple(losses)


def _configured_rows(checkpoint: Checkpoint[Tensor]) -> int | None:
    size = config_value(checkpoint.config, "vocab_size")
    return size if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= 1 << 24 else None


def _part(files: Files, rows: int | None) -> ModelPart:
    """The first of the files that says enough."""
    for name in _SENTENCEPIECE:
        part = _from_sentencepiece(files, name, rows) if name in files else None
        if part is not None:
            return part
    added = added_tokens(files)
    if "tokenizer.json" in files:
        return _from_tokenizer_json(files, added, rows)
    if "vocab.json" in files:
        return _with_configured_prefix(files, bpe.from_vocab_and_merges(files, added, rows))
    if "vocab.txt" in files:
        return wordpiece.from_vocab_txt(files, added, rows)
    if tekken.NAME in files:
        return tekken.from_tekken(files, rows)
    if rwkv.NAME in files:
        return rwkv.from_vocabulary(files, rows)
    if plamo.NAME in files:
        return plamo.from_jsonl(files, rows)
    if tiktoken.QWEN in files or tiktoken.KIMI in files:
        return tiktoken.from_tiktoken(files, added, rows)
    raise PlanError(
        f"{files.checkpoint.path}: no tokenizer files (tokenizer.json, tokenizer.model, tekken.json, vocab.json, "
        f"vocab.txt, {rwkv.NAME}, tokenizer.jsonl, tiktoken.model or qwen.tiktoken)",
        hint="download them into the folder, or convert without (--no-vocab)",
    )


def _from_sentencepiece(files: Files, name: str, rows: int | None) -> ModelPart | None:
    """None when tokenizer.json says more: XLM-R shifts the ids of its model, Llama 3's tokenizer.model is no such."""
    if name == "sentencepiece.bpe.model" and "tokenizer.json" in files:
        return None
    try:
        model = sentencepiece.parse(files.data(name), files.path(name))
    except FormatError:
        if "tokenizer.json" in files:
            return None
        raise
    if name == "sentencepiece.bpe.model":
        raise UnsupportedError(f"{files.path(name)}: its ids are shifted in the checkpoint; tokenizer.json is needed")
    if model.model_type == sentencepiece.UNIGRAM:
        return unigram.from_sentencepiece(files, model, name, rows)
    if model.model_type == sentencepiece.BPE:
        return spm.from_sentencepiece(files, model, name, rows)
    raise UnsupportedError(f"{files.path(name)}: llama.cpp has no SentencePiece model of type {model.model_type}")


def _from_tokenizer_json(files: Files, added: dict[int, AddedToken], rows: int | None) -> ModelPart:
    tokenizer = files.json("tokenizer.json")
    model = tokenizer.get("model")
    kind = model.get("type").string("BPE")
    if kind == "BPE" and bpe.is_byte_level(tokenizer):
        return _with_configured_prefix(files, bpe.from_json(files, added, rows))
    if kind == "BPE" and model.get("byte_fallback").flag():
        return escaped.from_json(files, added, rows) or spm.from_json(files, added, rows)
    if kind == "BPE" and whitespace.is_whitespace(tokenizer):
        return whitespace.from_json(files, added, rows)
    if kind == "WordPiece":
        return wordpiece.from_json(files, added, rows)
    if kind == "Unigram":
        return unigram.from_json(files, added, rows)
    raise UnsupportedError(f"{model.path}: llama.cpp has no tokenizer that does what this {kind} does")


def _with_configured_prefix(files: Files, part: ModelPart) -> ModelPart:
    """`add_prefix_space` of tokenizer_config.json, which the reference hands on although BPE ignores it."""
    prefix = files.json("tokenizer_config.json").get("add_prefix_space").value
    if isinstance(prefix, bool):
        metadata = {ADD_SPACE_PREFIX: Typed("bool", prefix), **part.metadata}
        return ModelPart(metadata, part.ids, part.added, part.rows, part.add_bos, part.losses)
    return part


def _strip_losses(added: Mapping[int, AddedToken]) -> tuple[Loss, ...]:
    """llama.cpp takes no white space away beside a special token, and finds it inside words too."""
    losses = []
    for attribute, effect in (
        ("lstrip", "keeps white space before"),
        ("rstrip", "keeps white space after"),
        ("single_word", "finds inside words"),
    ):
        texts = [token.content for token in added.values() if getattr(token, attribute)]
        if texts:
            shown = ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
            losses.append(Loss(LossKind.TOKENIZER_CHANGED, "added_tokens", f"llama.cpp {effect} {shown} ({attribute})"))
    return tuple(losses)
