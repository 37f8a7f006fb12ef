"""BPE on letters, of words between white space (Jina Embeddings v2 of Chinese): GGUF's model `whitespace`.

llama.cpp cuts at white space alone, HF's `Whitespace` also between letters and punctuation: the same unless a rule
joins both. Facts: llama.cpp's conversion/bert.py and src/llama-vocab.cpp (`llm_tokenizer_whitespace_session`).
"""

from __future__ import annotations

import re
from typing import Final

from requant.ir import Json, Typed
from requant.json_values import Item
from requant.losses import Loss, LossKind
from requant.tokenizers.files import Files, steps
from requant.tokenizers.keys import LOWERCASE, MERGES, MODEL, PRE, TOKENS, TYPES
from requant.tokenizers.merges import merges_of
from requant.tokenizers.metadata import GgmlTokenizer, bpe_model, document, ends, placed, strings, template
from requant.tokenizers.recognize import unnormalized
from requant.tokenizers.special import named_tokens
from requant.tokenizers.vocabulary import AddedToken, ModelPart, ids_of, laid_out, rowless, with_named

_NAME: Final = "whitespace"
#: A letter beside what is none.
_BETWEEN: Final = re.compile(r"\w[^\w\s]|[^\w\s]\w")
_CUTS: Final = ("Whitespace", "WhitespaceSplit")


def is_whitespace(tokenizer: Item) -> bool:
    """Whether a tokenizer.json's BPE cuts at white space, and that is all it does before it merges letters."""
    kinds = [step.get("type").value for step in steps(tokenizer, "pre_tokenizer")]
    return len(kinds) == 1 and kinds[0] in _CUTS


def from_json(files: Files, added: dict[int, AddedToken], rows: int | None) -> ModelPart:
    """tokenizer.json with such a model."""
    tokenizer = files.json("tokenizer.json")
    model = tokenizer.get("model")
    kinds = [step.get("type").string() for step in steps(tokenizer, "normalizer")]
    losses = [unnormalized(kind) for kind in kinds if kind != "Lowercase"]
    ids = ids_of(model.get("vocab"))
    merges = merges_of(model.get("merges"))
    merges.check(ids, model.path)
    added = with_named(named_tokens(files).values(), ids, added, rows)
    vocabulary = laid_out(ids, added.values(), rows, model.path, rowless(files))
    over = next((text for text in merges.products() if _BETWEEN.search(text)), None)
    if over is not None and next(steps(tokenizer, "pre_tokenizer")).get("type").value == "Whitespace":
        losses.append(_loss(f"llama.cpp joins letters and punctuation where a rule does, as in {over!r}"))
    says_unknown = model.get("unk_token").value is not None
    theirs = "says the unknown token" if says_unknown else "does so before it merges"
    losses.append(_loss(f"letters that are no tokens: llama.cpp leaves them out, the tokenizer {theirs}"))
    metadata = {
        MODEL: Typed("str", _NAME),
        PRE: Typed("str", _NAME),
        TOKENS: Typed("[str]", vocabulary.tokens),
        TYPES: Typed("[i32]", vocabulary.types),
        MERGES: Typed("[str]", merges.written()),
    }
    return ModelPart(metadata, ids, added, len(vocabulary.tokens), losses=tuple(losses))


def to_json(tokenizer: GgmlTokenizer) -> tuple[dict[str, Json], tuple[Loss, ...]]:
    """tokenizer.json of the model `whitespace`."""
    ids, added = placed(tokenizer)
    model = bpe_model(ids, list(strings(tokenizer.metadata, MERGES)))
    normalizer: Json = {"type": "Lowercase"} if tokenizer.flag(LOWERCASE, False) else None
    post = template(tokenizer, *ends(tokenizer, False))
    return document(added, normalizer, {"type": "WhitespaceSplit"}, post, None, model), ()


def _loss(detail: str) -> Loss:
    return Loss(LossKind.TOKENIZER_CHANGED, "pre_tokenizer", detail)
