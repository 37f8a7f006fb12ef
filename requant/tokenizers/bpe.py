"""Byte-level BPE: GGUF's model `gpt2`."""

from __future__ import annotations

from requant.errors import FormatError, UnsupportedError
from requant.ir import Typed
from requant.plan import Loss
from requant.tokenizers.files import Files, Item
from requant.tokenizers.merges import checked, joined, merges_of, merges_txt
from requant.tokenizers.recognize import Recognized, by_class, recognize
from requant.tokenizers.vocabulary import AddedToken, Vocabulary, ids_of, laid_out

MODEL, PRE = "tokenizer.ggml.model", "tokenizer.ggml.pre"
TOKENS, SCORES, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"
MERGES = "tokenizer.ggml.merges"


def is_byte_level(tokenizer: Item) -> bool:
    """Whether a tokenizer.json's BPE works on bytes written as letters (`Ġ` for a space)."""
    return any("ByteLevel" in _kinds(tokenizer.get(part)) for part in ("pre_tokenizer", "decoder"))


def _kinds(item: Item) -> set[object]:
    if item.value is None:
        return set()
    parts = {"Sequence": ("pretokenizers", "decoders", "normalizers")}.get(str(item.get("type").value), ())
    inner = [part for key in parts for part in item.get(key).items()]
    return {item.get("type").value}.union(*(_kinds(part) for part in inner))


def from_json(
    files: Files, added: dict[int, AddedToken], rows: int | None
) -> tuple[dict[str, Typed], Vocabulary, Recognized, tuple[Loss, ...]]:
    """tokenizer.json with a byte-level BPE model."""
    tokenizer = files.json("tokenizer.json")
    model = tokenizer.get("model")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key).value not in (None, ""):
            raise UnsupportedError(
                f"{model.path}: {model.where}.{key} is {model.get(key).value!r}, which llama.cpp's BPE cannot do"
            )
    ids = ids_of(model.get("vocab"))
    pairs = checked(merges_of(model.get("merges")), ids, model.path)
    recognized = recognize(tokenizer, files.json("tokenizer_config.json"))
    vocabulary = laid_out(ids, added.values(), rows, model.path)
    return _metadata(vocabulary, pairs, recognized), vocabulary, recognized, recognized.losses


def from_vocab_and_merges(
    files: Files, added: dict[int, AddedToken], rows: int | None
) -> tuple[dict[str, Typed], Vocabulary, Recognized, tuple[Loss, ...]]:
    """vocab.json and merges.txt, as GPT-2 came. What splits the text is what its tokenizer class does."""
    vocab = files.json("vocab.json")
    path = files.path("vocab.json")
    ids = ids_of(Item(path, "vocab", vocab.value))
    if "merges.txt" not in files:
        raise FormatError(path, "there is no merges.txt beside it", hint="download merges.txt or tokenizer.json")
    pairs = checked(merges_txt(files), ids, files.path("merges.txt"))
    recognized = by_class(files)
    vocabulary = laid_out(ids, added.values(), rows, path)
    return _metadata(vocabulary, pairs, recognized), vocabulary, recognized, recognized.losses


def _metadata(vocabulary: Vocabulary, pairs: object, recognized: Recognized) -> dict[str, Typed]:
    return {
        MODEL: Typed("str", "gpt2"),
        PRE: Typed("str", recognized.name),
        TOKENS: Typed("[str]", vocabulary.tokens),
        TYPES: Typed("[i32]", vocabulary.types),
        MERGES: Typed("[str]", joined(pairs)),  # type: ignore[arg-type]
    }
