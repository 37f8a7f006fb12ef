"""The tokenizer of a GGUF, as llama.cpp reads it.

Source: `llama_vocab::impl::load` in src/llama-vocab.cpp of llama.cpp b11549.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Final

from requant.ir import Typed
from requant.nearest import did_you_mean
from requant.printable import printable
from requant.tokenizers.keys import MERGES, MODEL, PRE, SCORES, TOKENS, TYPES
from requant.tokenizers.pre_tokenizers import BY_NAME
from requant.validation.findings import Report
from requant.validation.template import templates_of, trouble_of

#: A vocabulary of these names is none.
_NONE: Final = ("none", "no_vocab")
#: Those with merges, and all others that llama.cpp knows.
_MERGING: Final = ("gpt2", "gemma4", "hybriddna", "whitespace")
_MODELS: Final = (*_MERGING, "llama", "bert", "t5", "rwkv", "plamo2", *_NONE)
#: Names of `tokenizer.ggml.pre` that nothing here converts from or to, which llama.cpp knows all the same.
_OTHERS: Final = ("default", "gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace")
PRE_TOKENIZERS: Final = frozenset([*BY_NAME, *_OTHERS])
#: Of merges, how many that lead nowhere are named.
_SHOWN: Final = 3
#: Kinds of items that llama.cpp takes for the lists beside the tokens.
_KINDS: Final[Mapping[str, tuple[str, ...]]] = {SCORES: ("[f32]", "[i32]"), TYPES: ("[i32]",)}


def check_tokenizer(metadata: Mapping[str, Typed], report: Report) -> None:
    """Look at every rule of the tokenizer, and of the chat template."""
    model = _text(metadata, MODEL)
    if MODEL not in metadata or model not in _MODELS:
        said = f"is {printable(model)!r}" if MODEL in metadata else "is missing"
        report.add("tokenizer-model", f"{MODEL} {said}; llama.cpp has {', '.join(_MODELS)}")
    if model in _NONE:
        report.unchecked.append("tokenizer: the file has none")
        return
    tokens = _tokens(metadata, report)
    if tokens is not None:
        _check_tokens(tokens, report)
        _check_types(metadata, report)
    if model in _MERGING:
        _check_pre_tokenizer(metadata, model, report)
        _check_merges(metadata, model, tokens, report)
    _check_templates(metadata, report)
    report.checked.append("tokenizer")


def _text(metadata: Mapping[str, Typed], key: str) -> str:
    value = metadata[key].value if key in metadata else ""
    return value if isinstance(value, str) else str(value)


def _items(metadata: Mapping[str, Typed], key: str) -> Sequence[object] | None:
    value = metadata[key].value if key in metadata else None
    return value if isinstance(value, Sequence) and not isinstance(value, str) else None


def _tokens(metadata: Mapping[str, Typed], report: Report) -> list[str] | None:
    """The tokens; lists beside them are checked for their kind, and for their length by `requant.agreement`."""
    if TOKENS not in metadata:
        report.add("tokens", f"{TOKENS} is missing")
        return None
    items = _items(metadata, TOKENS)
    if items is None or metadata[TOKENS].kind != "[str]":
        report.add("tokens", f"{TOKENS} is {metadata[TOKENS].kind}; llama.cpp reads [str]")
        return None
    for key, kinds in _KINDS.items():
        if key in metadata and metadata[key].kind not in kinds:
            report.add("tokens", f"{key} is {metadata[key].kind}; llama.cpp reads {' or '.join(kinds)}")
    return list(map(str, items))


def _check_tokens(tokens: Sequence[str], report: Report) -> None:
    if len(set(tokens)) < len(tokens):
        first: dict[str, int] = {}
        for index, token in enumerate(tokens):
            if first.setdefault(token, index) != index and token:
                report.add("duplicate-token", f"{printable(token, 80)!r} is token {first[token]} and token {index}")
    for index, token in enumerate(tokens):
        if not token:
            report.add("empty-token", f"token {index} is empty")


def _check_types(metadata: Mapping[str, Typed], report: Report) -> None:
    types = _items(metadata, TYPES)
    if types is None or metadata[TYPES].kind not in _KINDS[TYPES]:
        return
    for index, kind in enumerate(types):
        if kind not in range(1, 7):
            report.add("token-type", f"token {index} is of type {kind}; there are 1 to 6")


def _check_pre_tokenizer(metadata: Mapping[str, Typed], model: str, report: Report) -> None:
    name = _text(metadata, PRE)
    if PRE not in metadata:
        if model == "gpt2":
            report.add("pre-tokenizer-missing", f"{PRE} is missing", "convert the model anew from its folder")
    elif name not in PRE_TOKENIZERS:
        hint = did_you_mean(name, PRE_TOKENIZERS, "")
        report.add("pre-tokenizer", f"{PRE} is {printable(name)!r}, which llama.cpp does not know", hint)


def _check_merges(metadata: Mapping[str, Typed], model: str, tokens: list[str] | None, report: Report) -> None:
    if MERGES not in metadata:
        if _text(metadata, PRE) != "kimi-k2" or model == "gemma4":
            report.add("merges", f"{MERGES} is missing, without which tokens of {model!r} are not found")
        return
    if metadata[MERGES].kind != "[str]":
        report.add("merges", f"{MERGES} is {metadata[MERGES].kind}; llama.cpp reads [str]")
        return
    if tokens is None:
        return
    known, wrong = set(tokens), 0
    for index, merge in enumerate(_items(metadata, MERGES) or ()):
        trouble = _trouble_of(str(merge), known)
        wrong += bool(trouble)
        if trouble and wrong <= _SHOWN:
            report.add("merge-pairs", f"merge {index}, {printable(str(merge), 80)!r}: {trouble}")
    if wrong > _SHOWN:
        report.add("merge-pairs", f"and {wrong - _SHOWN} more merges like these")


def _trouble_of(merge: str, known: Set[str]) -> str:
    """Why a merge makes no token of two; "" if it does. It is cut where llama.cpp cuts it, at the first space that is
    not its first letter."""
    at = merge.find(" ", 1)
    if at < 0:
        return "it is no pair"
    left, right = merge[:at], merge[at + 1 :]
    if left in known and right in known and left + right in known:
        return ""
    unknown = next(part for part in (left, right, left + right) if part not in known)
    return f"{printable(unknown, 80)!r} is no token"


def _check_templates(metadata: Mapping[str, Typed], report: Report) -> None:
    for key, text in templates_of(metadata):
        try:
            trouble = trouble_of(text)
        except ImportError:
            report.unchecked.append("chat template: jinja2 is not installed (requant[html] brings it)")
            return
        if trouble:
            report.add("chat-template", f"{key}: {printable(trouble)}")
