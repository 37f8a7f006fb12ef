"""WordPiece (BERT): GGUF's model `bert`, which marks the start of a word instead of its continuation.

HF writes `play ##ing`, llama.cpp `▁play ing`. What llama.cpp does otherwise for any such model, whatever the file says:
it leaves Hangul syllables whole and drops spacing marks (as in Hindi) when it strips accents, and it does not give up
on words of more than 100 letters.
"""

from __future__ import annotations

from requant.errors import FormatError, UnsupportedError
from requant.ir import Json, Typed
from requant.json_values import Item
from requant.losses import Loss, LossKind
from requant.tokenizers.files import Files, config_value
from requant.tokenizers.keys import LOWERCASE, MODEL, PRE, STRIP_ACCENTS, TOKENS, TYPE_COUNT, TYPES
from requant.tokenizers.metadata import GgmlTokenizer, assumed_ids, document, placed, template
from requant.tokenizers.special import named_tokens
from requant.tokenizers.vocabulary import SPACE, AddedToken, ModelPart, TokenType, ids_of, laid_out, rowless, with_named

_CONTINUED = "##"
_NAMES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}


def from_json(files: Files, added: dict[int, AddedToken], rows: int | None) -> ModelPart:
    """tokenizer.json with a WordPiece model."""
    tokenizer = files.json("tokenizer.json")
    model = tokenizer.get("model")
    prefix = model.get("continuing_subword_prefix").string(_CONTINUED)
    if prefix != _CONTINUED:
        raise UnsupportedError(f"{model.path}: continuing_subword_prefix is {prefix!r}; llama.cpp has only '##'")
    return _part(files, model.get("vocab"), added, rows, _losses(tokenizer))


def from_vocab_txt(files: Files, added: dict[int, AddedToken], rows: int | None) -> ModelPart:
    """vocab.txt: one token in each line."""
    path = files.path("vocab.txt")
    lines = files.text("vocab.txt").removesuffix("\n").split("\n")
    ids: dict[str, Json] = {}
    for number, line in enumerate(lines):
        text = line.rstrip("\r")
        if text in ids:
            raise FormatError(path, f"line {number + 1}: {text!r} is also in line {int(str(ids[text])) + 1}")
        ids[text] = number
    return _part(files, Item(path, "vocab", ids), added, rows, ())


def _part(
    files: Files, vocab: Item, added: dict[int, AddedToken], rows: int | None, losses: tuple[Loss, ...]
) -> ModelPart:
    ids = ids_of(vocab)
    names = [name for name in {**_NAMES, **named_tokens(files)}.values() if name in ids]
    added = with_named(names, ids, added, rows)
    vocabulary = laid_out(ids, added.values(), rows, vocab.path, rowless(files))
    count = config_value(files.checkpoint.config, "type_vocab_size")
    tokens = [
        text if kind == TokenType.CONTROL else text[2:] if text.startswith(_CONTINUED) else SPACE + text
        for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
    ]
    metadata = {
        TYPE_COUNT: Typed("u32", count if isinstance(count, int) and count >= 0 else 1),
        MODEL: Typed("str", "bert"),
        PRE: Typed("str", "jina-v2-en"),  # what the reference writes for BERT's own; llama.cpp does not use it
        TOKENS: Typed("[str]", tokens),
        TYPES: Typed("[i32]", vocabulary.types),
    }
    return ModelPart(metadata, ids, added, len(tokens), True, losses)


def _losses(tokenizer: Item) -> tuple[Loss, ...]:
    """What BERT's own normalizer and pre-tokenizer do, llama.cpp does; anything else it does not."""
    losses = []
    for part, known in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        item = tokenizer.get(part)
        kind = None if item.value is None else item.get("type").string()
        if kind != known:
            detail = f"llama.cpp does what {known} does, not {kind}"
            losses.append(Loss(LossKind.TOKENIZER_CHANGED, part, detail))
    normalizer = tokenizer.get("normalizer")
    for option in ("clean_text", "handle_chinese_chars") if normalizer.value is not None else ():
        if not normalizer.get(option).flag(True):
            losses.append(Loss(LossKind.TOKENIZER_CHANGED, "normalizer", f"llama.cpp always does {option}"))
    return tuple(losses)


def to_json(tokenizer: GgmlTokenizer) -> tuple[dict[str, Json], tuple[Loss, ...]]:
    """tokenizer.json of the model `bert`."""
    texts = [
        text if kind == TokenType.CONTROL else text[1:] if text.startswith(SPACE) else _CONTINUED + text
        for text, kind in zip(tokenizer.tokens, tokenizer.types, strict=True)
    ]
    written = GgmlTokenizer(tokenizer.metadata, texts, tokenizer.types)
    ids, added = placed(written)
    lowercase = tokenizer.flag(LOWERCASE, True)
    normalizer: Json = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": tokenizer.flag(STRIP_ACCENTS, True) if STRIP_ACCENTS in tokenizer.metadata else None,
        "lowercase": lowercase,
    }
    special = assumed_ids(written)
    unknown = special.get("unk")
    model: dict[str, Json] = {
        "type": "WordPiece",
        "unk_token": "[UNK]" if unknown is None else texts[unknown],
        "continuing_subword_prefix": _CONTINUED,
        "max_input_chars_per_word": 100,
        "vocab": ids,
    }
    decoder: Json = {"type": "WordPiece", "prefix": _CONTINUED, "cleanup": True}
    # llama.cpp puts them round every text, whatever the file says
    post = template(written, special.get("bos"), special.get("sep"))
    return document(added, normalizer, {"type": "BertPreTokenizer"}, post, decoder, model), ()
