"""BPE by rules on text whose spaces are ▁, with bytes for unknown letters: Gemma 4, Sarvam, ModernBERTs of Gemma's
vocabulary (Granite Embedding 311M, mmBERT).

llama.cpp cuts such text at line feeds only and merges by rules, not by scores as it does for SentencePiece's models
(`spm`): nothing is lost. Facts: llama.cpp's src/llama-vocab.cpp, conversion/base.py and conversion/gemma.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.ir import Json, Typed
from requant.json_values import Item
from requant.losses import Loss
from requant.tokenizers.files import Files, steps
from requant.tokenizers.keys import ADD_SPACE_PREFIX, MERGES, MODEL, PRE, SCORES, TOKENS, TYPES
from requant.tokenizers.merges import split_rules
from requant.tokenizers.metadata import GgmlTokenizer, broken, strings
from requant.tokenizers.spm import normalized, read_json, spaces_document
from requant.tokenizers.vocabulary import ADDED_SCORE, AddedToken, ModelPart, TokenType

_MMBERT: Final = "mmbert"
#: model_type -> `tokenizer.ggml.pre` of models whose tokenizer llama.cpp knows as one of these.
PRE_NAMES: Final[Mapping[str, str]] = {"sarvam_moe": "sarvam-moe", "modernbert": "granite-embed-multi-311m"}
#: Every such name, `mmbert` being that of a ModernBERT whose texts begin with a space and are cut at spaces.
NAMES: Final = frozenset({*PRE_NAMES.values(), _MMBERT})
#: Gemma 4's tokens that are printed, since its chat format is parsed from the text (conversion/gemma.py).
_GEMMA4_VISIBLE: Final = frozenset(
    ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>']
)


def from_json(files: Files, added: dict[int, AddedToken], rows: int | None) -> ModelPart | None:
    """tokenizer.json with a BPE model that falls back to bytes; None where llama.cpp has no such name for the model."""
    architecture = files.checkpoint.architecture
    gemma4 = architecture.startswith("gemma4")
    name = None if gemma4 else _name(architecture, files.json("tokenizer.json"))
    _, losses = normalized(files.json("tokenizer.json"), by_words=name == _MMBERT)
    if not gemma4 and name is None:
        return None
    ids, added, vocabulary, merges = read_json(files, added, rows)
    tokens = {TOKENS: Typed("[str]", vocabulary.tokens)}
    rest = {TYPES: Typed("[i32]", vocabulary.types), MERGES: Typed("[str]", merges.written())}
    if gemma4:
        for text in _GEMMA4_VISIBLE & ids.keys():
            vocabulary.types[ids[text]] = int(TokenType.USER_DEFINED)
        scores = {SCORES: Typed("[f32]", [ADDED_SCORE] * len(vocabulary.tokens))}
        metadata = {MODEL: Typed("str", "gemma4"), **tokens, **scores, **rest, ADD_SPACE_PREFIX: Typed("bool", False)}
    else:
        assert name is not None
        metadata = {MODEL: Typed("str", "gpt2"), PRE: Typed("str", name), **tokens, **rest}
    return ModelPart(metadata, ids, added, len(vocabulary.tokens), losses=losses)


def _name(architecture: str, tokenizer: Item) -> str | None:
    """What llama.cpp calls a tokenizer that does as this one; None where it knows none."""
    words = any(step.get("split").flag(True) for step in steps(tokenizer, "pre_tokenizer") if _is_metaspace(step))
    prefix, _ = normalized(tokenizer)
    if words or prefix:
        return _MMBERT if architecture == "modernbert" and words and prefix else None
    return PRE_NAMES.get(architecture)


def _is_metaspace(step: Item) -> bool:
    return step.get("type").value == "Metaspace"


def to_json(tokenizer: GgmlTokenizer) -> tuple[dict[str, Json], tuple[Loss, ...]]:
    """tokenizer.json of such a model, which has rules of its own."""
    merges = split_rules(strings(tokenizer.metadata, MERGES))
    if merges is None:
        raise broken(f"{MERGES} has an item that is not two tokens")
    pairs: list[Json] = [[left, right] for left, right in zip(merges.lefts, merges.rights, strict=True)]
    gemma4, words = tokenizer.text(MODEL) == "gemma4", tokenizer.text(PRE, "default") == _MMBERT
    prefix = tokenizer.flag(ADD_SPACE_PREFIX, words)
    return spaces_document(tokenizer, pairs, prefix, adds_bos=gemma4, by_words=words), ()
