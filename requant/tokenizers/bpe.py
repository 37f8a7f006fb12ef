"""Byte-level BPE: GGUF's model `gpt2`."""

from __future__ import annotations

from requant.errors import FormatError, UnsupportedError
from requant.ir import Json, Typed
from requant.json_values import Item
from requant.losses import Loss, LossKind
from requant.tokenizers.files import Files
from requant.tokenizers.keys import MERGES, MODEL, PRE, TOKENS, TYPES
from requant.tokenizers.merges import Merges, merges_of, merges_txt
from requant.tokenizers.metadata import GgmlTokenizer, bpe_model, document, ends, placed, strings, template
from requant.tokenizers.pre_tokenizers import BY_NAME, GPT2, PreTokenizer
from requant.tokenizers.recognize import Recognized, by_class, recognize
from requant.tokenizers.special import named_tokens
from requant.tokenizers.vocabulary import AddedToken, ModelPart, ids_of, laid_out, rowless, with_named


def is_byte_level(tokenizer: Item) -> bool:
    """Whether a tokenizer.json's BPE works on bytes written as letters (`Ġ` for a space)."""
    return any("ByteLevel" in _kinds(tokenizer.get(part)) for part in ("pre_tokenizer", "decoder"))


def _kinds(item: Item) -> set[str]:
    if item.value is None:
        return set()
    inner = [part for key in ("pretokenizers", "decoders") for part in item.get(key).items()]
    return {item.get("type").string("")}.union(*(_kinds(part) for part in inner))


def from_json(files: Files, added: dict[int, AddedToken], rows: int | None) -> ModelPart:
    """tokenizer.json with a byte-level BPE model."""
    tokenizer = files.json("tokenizer.json")
    model = tokenizer.get("model")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key).value not in (None, ""):
            raise UnsupportedError(
                f"{model.path}: {model.where}.{key} is {model.get(key).value!r}, which llama.cpp's BPE cannot do"
            )
    merges = merges_of(model.get("merges"))
    merges.check(ids_of(model.get("vocab")), model.path)
    recognized = recognize(tokenizer, files.json("tokenizer_config.json"), files.checkpoint.architecture)
    return _part(files, model.get("vocab"), merges, added, rows, recognized)


def from_vocab_and_merges(files: Files, added: dict[int, AddedToken], rows: int | None) -> ModelPart:
    """vocab.json and merges.txt, as GPT-2 came. What splits the text is what its tokenizer class does."""
    path = files.path("vocab.json")
    if "merges.txt" not in files:
        raise FormatError(path, "there is no merges.txt beside it", hint="download merges.txt or tokenizer.json")
    vocab = Item(path, "vocab", files.json("vocab.json").value)
    merges = merges_txt(files)
    merges.check(ids_of(vocab), files.path("merges.txt"))
    return _part(files, vocab, merges, added, rows, by_class(files))


def _part(
    files: Files, vocab: Item, merges: Merges, added: dict[int, AddedToken], rows: int | None, recognized: Recognized
) -> ModelPart:
    ids = ids_of(vocab)
    added = with_named(named_tokens(files).values(), ids, added, rows)
    vocabulary = laid_out(ids, added.values(), rows, vocab.path, rowless(files))
    metadata = {
        MODEL: Typed("str", "gpt2"),
        PRE: Typed("str", recognized.row.name),
        TOKENS: Typed("[str]", vocabulary.tokens),
        TYPES: Typed("[i32]", vocabulary.types),
        MERGES: Typed("[str]", merges.written()),
    }
    return ModelPart(metadata, ids, added, len(vocabulary.tokens), recognized.row.add_bos, recognized.losses)


def to_json(tokenizer: GgmlTokenizer) -> tuple[dict[str, Json], tuple[Loss, ...]]:
    """tokenizer.json of the model `gpt2`."""
    name = tokenizer.text(PRE, "default")
    row = BY_NAME.get(name)
    losses: tuple[Loss, ...] = ()
    if row is None:
        row = BY_NAME["gpt-2"]
        losses = (Loss(LossKind.TOKENIZER_CHANGED, PRE, f"{name!r} is not known here; text is split as GPT-2 does"),)
    ids, added = placed(tokenizer)
    model = bpe_model(ids, list(strings(tokenizer.metadata, MERGES)), ignore_merges=row.ignore_merges)
    decoder: Json = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    post = template(tokenizer, *ends(tokenizer, row.add_bos))
    normalizer: Json = {"type": row.normalizer} if row.normalizer else None
    return document(added, normalizer, _splits(row), post, decoder, model), losses


def _splits(row: PreTokenizer) -> Json:
    """The cuts of a row, then bytes written as letters."""
    if row.splits == (GPT2,):
        return _bytes(use_regex=True)
    steps: list[Json] = []
    for pattern in row.splits[:-1] if row.splits[-1] == GPT2 else row.splits:
        if pattern in (r"\p{N}", r"\p{N}+"):
            steps.append({"type": "Digits", "individual_digits": pattern == r"\p{N}"})
        else:
            steps.append({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})
    return {"type": "Sequence", "pretokenizers": [*steps, _bytes(use_regex=row.splits[-1] == GPT2)]}


def _bytes(use_regex: bool) -> dict[str, Json]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
