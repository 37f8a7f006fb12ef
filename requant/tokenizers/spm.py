"""SentencePiece BPE with bytes for unknown letters (Llama 2, Mistral, Gemma, Phi-3): GGUF's model `llama`.

llama.cpp merges the two neighbours whose union has the best score, HF the two whose rule comes first. Both are the
same as long as every way to put a token together is a rule, and rules are in the order of scores: that is how HF
makes its rules from a `tokenizer.model`, and how scores are made from rules here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from requant.ir import Json, Typed
from requant.json_values import Item
from requant.losses import Loss, LossKind
from requant.tokenizers.files import Files, puts_space_before, steps
from requant.tokenizers.keys import ADD_SPACE_PREFIX, MODEL, PRE, SCORES, TOKENS, TYPES
from requant.tokenizers.merges import Merges, merges_of
from requant.tokenizers.metadata import (
    GgmlTokenizer,
    assumed_ids,
    bpe_model,
    document,
    ends,
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
    ids_of,
    laid_out,
    rowless,
    with_named,
)

_SAMPLE = 4096  # tokens looked at to see whether all ways to make them are rules
_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def from_sentencepiece(files: Files, model: SentencePiece, name: str, rows: int | None) -> ModelPart:
    """tokenizer.model; tokens added later come from the JSON files beside it."""
    ids = {piece: index for index, piece in enumerate(model.pieces)}
    added = added_tokens(files, tokenizer_json=False)
    for index, token in added_tokens(files).items():
        if index not in added and ids.get(token.content) != index:
            added[index] = token
    for index, kind in enumerate(model.types):
        if kind == TokenType.USER_DEFINED:  # no merge makes these: they are looked for in the text, as added ones are
            added.setdefault(index, AddedToken(index, model.pieces[index], special=False))
    vocabulary = laid_out(ids, added.values(), rows, files.path(name), rowless(files))
    scores = model.rank(vocabulary, added)
    losses = []
    if model.charsmap:
        losses.append(_loss("normalizer", "llama.cpp does not normalize text for this model; SentencePiece does"))
    if model.remove_extra_whitespaces:
        losses.append(_loss("normalizer", "llama.cpp keeps runs of spaces; SentencePiece makes one of them"))
    metadata = _metadata(vocabulary.tokens, scores, vocabulary.types)
    prefix = _configured_prefix(files, model.add_dummy_prefix)
    return ModelPart(_with_prefix(files, metadata, prefix), ids, added, len(scores), True, tuple(losses))


def from_json(files: Files, added: dict[int, AddedToken], rows: int | None) -> ModelPart:
    """tokenizer.json with a BPE model that falls back to bytes."""
    ids, added, vocabulary, merges = read_json(files, added, rows)
    scores, losses = _scores(merges, ids, vocabulary.tokens, {token.content for token in added.values()})
    for index, kind in enumerate(vocabulary.types):
        if index >= len(ids) and index in added:
            scores[index] = ADDED_SCORE
        elif kind == TokenType.UNUSED:
            scores[index] = PADDING_SCORE
        elif kind in (TokenType.UNKNOWN, TokenType.BYTE, TokenType.CONTROL):
            scores[index] = 0.0
    prefix, more = normalized(files.json("tokenizer.json"))
    metadata = _metadata(vocabulary.tokens, scores, vocabulary.types)
    metadata = _with_prefix(files, metadata, _configured_prefix(files, prefix))
    return ModelPart(metadata, ids, added, len(scores), True, (*losses, *more))


def read_json(
    files: Files, added: dict[int, AddedToken], rows: int | None
) -> tuple[dict[str, int], dict[int, AddedToken], Vocabulary, Merges]:
    """(ids by text, added tokens, all tokens by id, rules) of a tokenizer.json with bytes for unknown letters."""
    model = files.json("tokenizer.json").get("model")
    ids = ids_of(model.get("vocab"))
    merges = merges_of(model.get("merges"))
    merges.check(ids, model.path)
    added = with_named(named_tokens(files).values(), ids, added, rows)
    vocabulary = laid_out(ids, added.values(), rows, model.path, rowless(files))
    for text in _BYTES & ids.keys():
        vocabulary.types[ids[text]] = int(TokenType.BYTE)
    unknown = model.get("unk_token").string("")
    if unknown in ids:
        vocabulary.types[ids[unknown]] = int(TokenType.UNKNOWN)
    return ids, added, vocabulary, merges


def _metadata(tokens: list[str], scores: list[float], types: list[int]) -> dict[str, Typed]:
    return {
        MODEL: Typed("str", "llama"),
        PRE: Typed("str", "default"),
        TOKENS: Typed("[str]", tokens),
        SCORES: Typed("[f32]", scores),
        TYPES: Typed("[i32]", types),
    }


def _configured_prefix(files: Files, prefix: bool) -> bool:
    value = files.json("tokenizer_config.json").get("add_prefix_space").value
    return value if isinstance(value, bool) else prefix


def _with_prefix(files: Files, metadata: dict[str, Typed], prefix: bool) -> dict[str, Typed]:
    """llama.cpp puts a space before the text unless told otherwise."""
    key = {ADD_SPACE_PREFIX: Typed("bool", prefix)}
    if isinstance(files.json("tokenizer_config.json").get("add_prefix_space").value, bool):
        return {**key, **metadata}
    return metadata if prefix else {**metadata, **key}


def _loss(subject: str, detail: str) -> Loss:
    return Loss(LossKind.TOKENIZER_CHANGED, subject, detail)


def _scores(
    merges: Merges, ids: Mapping[str, int], tokens: list[str], added: set[str]
) -> tuple[list[float], tuple[Loss, ...]]:
    """Minus the rank of the rules that make each token; tokens that no rule makes come after all others."""
    products = merges.products()
    ranks = {text: rank for rank, text in enumerate(dict.fromkeys(products), 1)}
    scores = [-1.0 - len(ranks)] * len(tokens)
    for text, rank in ranks.items():
        scores[ids[text]] = float(-rank)
    losses = []
    starts = [text for text, before in zip(products, [None, *products], strict=False) if text != before]
    if len(starts) > len(ranks):
        again = sum(n - 1 for text, n in Counter(starts).items() if n > 1 and _matters(text, added))
        if again:
            losses.append(
                _loss("merges", f"llama.cpp ranks tokens, not rules: {again} rules come earlier or later there")
            )
    texts = list(ids)
    sample = [text for text in texts[:: max(1, len(texts) // _SAMPLE)] if _matters(text, added)]
    have = set(zip(merges.lefts, merges.rights, strict=True))
    missing = sum(1 for text in sample for pair in _ways(text, ids) if pair not in have and not added & set(pair))
    if missing:
        share = f"{missing} in a sample of {len(sample)} tokens"
        losses.append(_loss("merges", f"llama.cpp merges all pairs that make a token; this tokenizer not ({share})"))
    return scores, tuple(losses)


def _matters(text: str, added: set[str]) -> bool:
    """Added tokens are found before anything is merged, and runs of white space come out the same in any order."""
    return text not in added and text not in _BYTES and text.strip(f"{SPACE}\n\t ") != ""


def _ways(text: str, ids: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Every way to make a token out of two."""
    for cut in range(1, len(text)):
        left, right = text[:cut], text[cut:]
        if left in ids and right in ids:
            yield left, right


def normalized(tokenizer: Item, *, by_words: bool = False) -> tuple[bool, tuple[Loss, ...]]:
    """Whether a space is put before the text, and what the normalizer and pre-tokenizer do that llama.cpp does not.

    by_words: llama.cpp cuts at spaces, as some such tokenizers do.
    """
    prefix, escapes, losses = False, False, []
    for item in (*steps(tokenizer, "normalizer"), *steps(tokenizer, "pre_tokenizer")):
        kind = item.get("type").string()
        if kind == "Prepend":
            prefix = True
        elif kind == "Replace" and item.get("content").value == SPACE:
            escapes = True
        elif kind == "Metaspace":
            escapes = True
            scheme = puts_space_before(item)
            prefix = scheme != "never"
            if scheme == "first":
                losses.append(
                    _loss("pre_tokenizer", "llama.cpp puts a space before text that follows a special token too")
                )
            if item.get("split").flag(True) and not by_words:
                losses.append(_loss("pre_tokenizer", "llama.cpp merges across spaces where the vocabulary allows it"))
        elif kind == "Split" and item.get("pattern").get("String").value == " " and escapes:
            continue  # Gemma: there are no spaces left to split at
        else:
            losses.append(_loss("normalizer", f"llama.cpp does not do {kind}"))
    if not escapes:
        losses.append(_loss("normalizer", f"llama.cpp writes spaces as {SPACE}; this tokenizer does not"))
    return prefix, tuple(losses)


def to_json(tokenizer: GgmlTokenizer) -> tuple[dict[str, Json], tuple[Loss, ...]]:
    """tokenizer.json of the model `llama`."""
    scores = scores_of(tokenizer)
    usual = {text: index for index, text in enumerate(tokenizer.tokens) if tokenizer.types[index] == TokenType.NORMAL}
    rules = [
        (-scores[index], index, usual[left], usual[right], left, right)
        for text, index in usual.items()
        for left, right in _ways(text, usual)
    ]
    rules.sort()
    made = {left + right for *_, left, right in rules if _matters(left + right, set())}
    ties = len(made) - len({scores[usual[text]] for text in made})
    losses = (
        (_loss(SCORES, f"{ties} tokens have the score of another; they merge in the order of ids"),) if ties else ()
    )
    merges: list[Json] = [[left, right] for *_, left, right in rules]
    return spaces_document(tokenizer, merges, tokenizer.flag(ADD_SPACE_PREFIX, True)), losses


def spaces_document(
    tokenizer: GgmlTokenizer, merges: list[Json], prefix: bool, *, adds_bos: bool = True, by_words: bool = False
) -> dict[str, Json]:
    """The tokenizer.json of BPE on text whose spaces are ▁. prefix: whether one is put before the text.

    adds_bos: what llama.cpp does when the file does not say. by_words: it cuts at spaces.
    """
    ids, added = placed(tokenizer)
    unknown = assumed_ids(tokenizer).get("unk")
    escape: Json = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    unescape: list[Json] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    unescape += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefix and not by_words:
        escape = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, escape]}
    if prefix:
        unescape += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    scheme = "always" if prefix else "never"
    words: Json = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": True}
    model = bpe_model(
        ids,
        merges,
        unk_token=None if unknown is None else tokenizer.tokens[unknown],
        fuse_unk=True,
        byte_fallback="<0x00>" in ids,
    )
    post = template(tokenizer, *ends(tokenizer, adds_bos))
    decoder: Json = {"type": "Sequence", "decoders": unescape}
    if by_words:
        return document(added, None, words, post, decoder, model)
    return document(added, escape, None, post, decoder, model)
