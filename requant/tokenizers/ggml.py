"""HF tokenizer files -> `tokenizer.*` metadata, as llama.cpp's convert_hf_to_gguf.py writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from requant.errors import PlanError, UnsupportedError
from requant.ir import Checkpoint, Tensor, Typed
from requant.plan import Loss, LossKind
from requant.tokenizers import bpe
from requant.tokenizers.files import Files, config_value
from requant.tokenizers.special import ADD_KEYS, special_metadata
from requant.tokenizers.vocabulary import AddedToken, added_tokens

ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"


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
    files = Files(checkpoint)
    rows = vocab_rows if vocab_rows is not None else _configured_rows(checkpoint)
    added = _with_named(files, added_tokens(files))
    if "tokenizer.json" in files:
        return _from_tokenizer_json(files, added, rows)
    if "vocab.json" in files:
        return _byte_level(files, added, rows)
    raise PlanError(
        f"{checkpoint.path}: there are no tokenizer files (tokenizer.json, tokenizer.model, vocab.json or vocab.txt)",
        hint="download them into the folder, or ask for no vocabulary with --no-vocab",
    )


def _configured_rows(checkpoint: Checkpoint[Tensor]) -> int | None:
    size = config_value(checkpoint.config, "vocab_size")
    return size if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= 1 << 24 else None


def _from_tokenizer_json(files: Files, added: dict[int, AddedToken], rows: int | None) -> TokenizerOutcome:
    tokenizer = files.json("tokenizer.json")
    model = tokenizer.get("model")
    kind = model.get("type").string("BPE")
    if kind == "BPE" and bpe.is_byte_level(tokenizer):
        return _byte_level(files, added, rows)
    raise UnsupportedError(f"{model.path}: llama.cpp has no tokenizer of type {kind!r}")


def _byte_level(files: Files, added: dict[int, AddedToken], rows: int | None) -> TokenizerOutcome:
    read = bpe.from_json if "tokenizer.json" in files else bpe.from_vocab_and_merges
    metadata, vocabulary, recognized, losses = read(files, added, rows)
    prefix = files.json("tokenizer_config.json").get("add_prefix_space").value
    first = {ADD_SPACE_PREFIX: Typed("bool", prefix)} if isinstance(prefix, bool) else {}
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    special = special_metadata(files, files.checkpoint.config, ids, added, len(vocabulary.tokens))
    if recognized.row.add_bos:
        # what llama.cpp assumes for this pre-tokenizer must not add what the tokenizer does not
        special.setdefault(ADD_KEYS["bos"], Typed("bool", False))
    return TokenizerOutcome({**first, **metadata, **special}, losses + strip_losses(added))


def _with_named(files: Files, added: dict[int, AddedToken]) -> dict[int, AddedToken]:
    """Special tokens that are named but not declared become control tokens, as `transformers` makes them."""
    return added


def strip_losses(added: Mapping[int, AddedToken]) -> tuple[Loss, ...]:
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
