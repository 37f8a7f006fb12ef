"""SentencePiece unigram (T5, XLM-R): GGUF's model `t5`."""

from __future__ import annotations

from base64 import b64decode, b64encode

from requant.errors import FormatError
from requant.ir import Json, Typed
from requant.json_values import Item
from requant.losses import Loss, LossKind
from requant.tokenizers.files import Files, config_value, puts_space_before, steps
from requant.tokenizers.keys import (
    ADD_SPACE_PREFIX,
    CHARSMAP,
    MODEL,
    PRE,
    REMOVE_EXTRA_WHITESPACES,
    SCORES,
    TOKENS,
    TYPE_COUNT,
    TYPES,
)
from requant.tokenizers.metadata import (
    GgmlTokenizer,
    assumed_ids,
    document,
    ends,
    integers,
    placed,
    scores_of,
    template,
)
from requant.tokenizers.sentencepiece import SentencePiece
from requant.tokenizers.special import named_tokens
from requant.tokenizers.vocabulary import (
    ADDED_SCORE,
    PADDING_SCORE,
    SPACE,
    AddedToken,
    ModelPart,
    TokenType,
    Vocabulary,
    added_tokens,
    laid_out,
    rowless,
    with_named,
)


def from_sentencepiece(files: Files, model: SentencePiece, name: str, rows: int | None) -> ModelPart:
    """spiece.model or tokenizer.model of T5: ids are the pieces' positions."""
    ids = {piece: index for index, piece in enumerate(model.pieces)}
    added = {i: token for i, token in added_tokens(files).items() if ids.get(token.content) != i}
    vocabulary = laid_out(ids, added.values(), rows, files.path(name), rowless(files))
    scores = model.rank(vocabulary, added)
    metadata = _metadata(
        files, vocabulary, scores, model.add_dummy_prefix, model.remove_extra_whitespaces, model.charsmap
    )
    return ModelPart(metadata, ids, added, len(scores))


def from_json(files: Files, added: dict[int, AddedToken], rows: int | None) -> ModelPart:
    """tokenizer.json with a Unigram model."""
    tokenizer = files.json("tokenizer.json")
    model = tokenizer.get("model")
    pieces: list[tuple[str, float]] = []
    for item in model.get("vocab").items():
        pair = item.array()
        if len(pair) != 2 or not isinstance(pair[0], str) or type(pair[1]) not in (int, float):
            raise item.wrong("a token and its score")
        pieces.append((pair[0], float(str(pair[1]))))
    ids = {text: index for index, (text, _) in enumerate(pieces)}
    if len(ids) != len(pieces):
        raise FormatError(model.path, f"{model.where}.vocab has {len(pieces) - len(ids)} tokens twice")
    added = with_named(named_tokens(files).values(), ids, added, rows)
    vocabulary = laid_out(ids, added.values(), rows, model.path, rowless(files))
    scores = [score for _, score in pieces]
    scores += [ADDED_SCORE if i in added else PADDING_SCORE for i in range(len(scores), len(vocabulary.tokens))]
    unknown = model.get("unk_id").value
    if isinstance(unknown, int) and 0 <= unknown < len(pieces):
        vocabulary.types[unknown] = int(TokenType.UNKNOWN)
    prefix, collapse, charsmap, losses = _normalization(tokenizer)
    metadata = _metadata(files, vocabulary, scores, prefix, collapse, charsmap)
    return ModelPart(metadata, ids, added, len(scores), losses=losses)


def _metadata(
    files: Files, vocabulary: Vocabulary, scores: list[float], prefix: bool, collapse: bool, charsmap: bytes
) -> dict[str, Typed]:
    metadata = {
        MODEL: Typed("str", "t5"),
        PRE: Typed("str", "default"),
        TOKENS: Typed("[str]", vocabulary.tokens),
        SCORES: Typed("[f32]", scores),
        TYPES: Typed("[i32]", vocabulary.types),
        ADD_SPACE_PREFIX: Typed("bool", prefix),
    }
    count = config_value(files.checkpoint.config, "type_vocab_size")
    if isinstance(count, int) and count >= 0:
        metadata[TYPE_COUNT] = Typed("u32", count)
    metadata[REMOVE_EXTRA_WHITESPACES] = Typed("bool", collapse)
    if charsmap:
        metadata[CHARSMAP] = Typed("[u8]", list(charsmap))
    return metadata


def _normalization(tokenizer: Item) -> tuple[bool, bool, bytes, tuple[Loss, ...]]:
    """Space in front, runs of spaces made one, the compiled normalizer, and what llama.cpp cannot do."""
    prefix, collapse, charsmap, losses = False, False, b"", []
    for part in ("normalizer", "pre_tokenizer"):
        for item in steps(tokenizer, part):
            kind = item.get("type").string()
            if kind == "Precompiled":
                text = item.get("precompiled_charsmap").string("")
                try:
                    charsmap = b64decode(text, validate=True)
                except ValueError:
                    raise FormatError(item.path, f"{item.where}.precompiled_charsmap is not base64") from None
            elif kind == "Metaspace":
                prefix = puts_space_before(item) != "never"
            elif kind == "WhitespaceSplit" or _collapses(item):
                collapse = True
            elif kind not in ("Strip", "NFKC", "Nmt"):
                losses.append(Loss(LossKind.TOKENIZER_CHANGED, part, f"llama.cpp does not do {kind}"))
            elif kind != "Strip" and not charsmap:
                losses.append(
                    Loss(LossKind.TOKENIZER_CHANGED, part, f"llama.cpp does {kind} only with a compiled table")
                )
    return prefix, collapse, charsmap, tuple(losses)


def _collapses(item: Item) -> bool:
    return item.get("type").value == "Replace" and item.get("pattern").get("Regex").value in (" {2,}", r"\s+", " +")


def to_json(tokenizer: GgmlTokenizer) -> tuple[dict[str, Json], tuple[Loss, ...]]:
    """tokenizer.json of the model `t5`."""
    scores = scores_of(tokenizer)
    _, added = placed(tokenizer)
    vocab: list[Json] = [[text, score] for text, score in zip(tokenizer.tokens, scores, strict=True)]
    while vocab and tokenizer.is_padding(len(vocab) - 1):
        vocab.pop()
    normalizers: list[Json] = []
    if CHARSMAP in tokenizer.metadata:
        charsmap = b64encode(bytes(byte & 255 for byte in integers(tokenizer.metadata, CHARSMAP))).decode()
        normalizers.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if tokenizer.flag(REMOVE_EXTRA_WHITESPACES, False):
        normalizers.append({"type": "Strip", "strip_left": True, "strip_right": True})
        normalizers.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    prefix = tokenizer.flag(ADD_SPACE_PREFIX, False)
    space: dict[str, Json] = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "always" if prefix else "never",
        "split": False,
    }
    model: dict[str, Json] = {
        "type": "Unigram",
        "unk_id": assumed_ids(tokenizer).get("unk"),
        "vocab": vocab,
        "byte_fallback": False,
    }
    normalizer: Json = {"type": "Sequence", "normalizers": normalizers} if normalizers else None
    post = template(tokenizer, *ends(tokenizer, False, True))
    return document(added, normalizer, space, post, dict(space), model), ()
