"""Special tokens, what is put round a text, and chat templates: read from HF files as gguf-py's SpecialVocab does.

What comes out is the part of `tokenizer.*` that all models share. Differences to gguf-py: a special token is also
looked for in the vocabulary and in special_tokens_map.json, so that folders without tokenizer.json keep theirs; and
chat_template.jinja comes before the template in tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from requant.ir import Json, Typed
from requant.json_values import Item
from requant.tokenizers.files import Files, config_value
from requant.tokenizers.keys import ADD_KEYS, CHAT_TEMPLATE, CHAT_TEMPLATES, ID_KEYS, LOWERCASE, STRIP_ACCENTS
from requant.tokenizers.vocabulary import AddedToken

_TEKKEN = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
_QWEN_END = "<|endoftext|>"
_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(slots=True)
class Specials:
    """names: the text of each special token. add: which of them are put round a text."""

    names: dict[str, str] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)


def named_tokens(files: Files) -> dict[str, str]:
    """The special tokens that the folder names, by HF's word for them."""
    names: dict[str, str] = {}
    for document in (files.json("tokenizer_config.json"), files.json("special_tokens_map.json")):
        for kind in _NAMED:
            text = _text(document.get(f"{kind}_token"))
            if text is not None:
                names.setdefault(kind, text)
    if not names and "tekken.json" in files and "tokenizer.json" not in files:
        names.update(_TEKKEN)  # which says its special tokens by their texts alone
    if "qwen.tiktoken" in files and "tokenizer.json" not in files:
        names.update(names or dict.fromkeys(("bos", "eos"), _QWEN_END))  # which its code says, not its files
        names.setdefault("unk", _QWEN_END)
    return names


def special_metadata(
    files: Files, config: Mapping[str, Json], ids: Mapping[str, int], added: Mapping[int, AddedToken], rows: int
) -> dict[str, Typed]:
    """Special ids, add_bos and its like, chat templates and the normalizer's flags, in the order of gguf-py.

    ids: of every text. rows: ids from here on are out of range and left out.
    """
    specials = Specials(named_tokens(files))
    _read_post_processor(files.json("tokenizer.json").get("post_processor"), specials)
    _read_add_flags(files.json("tokenizer_config.json"), specials)
    by_text = {token.content: token.id for token in reversed(list(added.values()))}
    found: dict[str, int] = {}
    for kind in (*_NAMED, "eot", "eom"):
        name = specials.names.get(kind, "")
        index = by_text.get(name, ids.get(name))
        if index is not None and index < rows:
            found[kind] = index
    for kind in _NAMED:
        value = config_value(config, f"{kind}_token_id")
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < rows:
            found.setdefault(kind, value)
    metadata = {ID_KEYS[kind]: Typed("u32", index) for kind, index in found.items() if kind in ID_KEYS}
    metadata.update((ADD_KEYS[kind], Typed("bool", value)) for kind, value in specials.add.items())
    metadata.update(chat_metadata(files))
    metadata.update(_normalizer_flags(files.json("tokenizer.json").get("normalizer")))
    return metadata


def _text(item: Item) -> str | None:
    """A special token's text, written as a string or as an object with `content`."""
    if isinstance(item.value, dict):
        item = item.get("content")
    return item.value if isinstance(item.value, str) else None


def _read_add_flags(tokenizer_config: Item, specials: Specials) -> None:
    for kind in ADD_KEYS:
        value = tokenizer_config.get(f"add_{kind}_token").value
        if isinstance(value, bool):
            specials.add.setdefault(kind, value)


def _read_post_processor(post: Item, specials: Specials) -> None:
    """What the post-processor puts round a text."""
    names = specials.names
    for alias, kind in (("bos", "cls"), ("eos", "sep")):
        if kind in names:
            names.setdefault(alias, names[kind])
    if post.value is None:
        return
    parts = [post] if post.get("processors").value is None else list(post.get("processors").items())
    for part in parts:
        processor = part.get("type").value
        if processor == "ByteLevel":
            specials.add.setdefault("bos", False)
            specials.add.setdefault("eos", False)
        elif processor == "RobertaProcessing":
            specials.add.update(bos=True, eos=True, sep=True)
            for role in ("cls", "sep"):
                pair = part.get(role).value
                if isinstance(pair, list) and pair and isinstance(pair[0], str):
                    names.setdefault(role, pair[0])
        elif processor in ("TemplateProcessing", "BertProcessing"):
            _read_template(part, specials)


def _pieces(template: Item) -> list[tuple[str, str]]:
    """A template as (kind, id) pairs: ("SpecialToken", "<s>"), ("Sequence", "A")."""
    pieces = []
    for item in template.items():
        for kind in item.object():
            pieces.append((kind, item.get(kind).get("id").string()))
    return pieces


def _read_template(part: Item, specials: Specials) -> None:
    if part.get("type").value == "BertProcessing":
        specials.add.update(bos=True, eos=True, sep=True)
        return
    names, single = specials.names, _pieces(part.get("single"))
    first = last = None
    if len(single) > 1 and single[0][0] == "SpecialToken":
        first = single[0][1]
        if first not in (names.get("bos"), names.get("cls")):
            names.setdefault("bos", first)
            names.setdefault("cls", first)
        specials.add["bos"] = first in (names.get("bos"), names.get("cls"))
    if len(single) > 1 and single[-1][0] == "SpecialToken":
        last = single[-1][1]
        if "eos" in names and last != names["eos"]:
            # what ends a text is not what ends a turn: the turn's end is kept under another key
            names.setdefault("eot", names["eos"])
        names["eos"] = last
        specials.add["eos"] = True
    _read_pair(_pieces(part.get("pair")), first, last, specials)


def _read_pair(pair: list[tuple[str, str]], first: str | None, last: str | None, specials: Specials) -> None:
    """Whether a separator stands between two texts: `A [sep] [eos] B`."""
    pair = pair[1:] if first and pair and pair[0][1] == first else pair
    pair = pair[:-1] if last and pair and pair[-1][1] == last else pair
    if len(pair) < 3 or pair[0] != ("Sequence", "A") or pair[-1] != ("Sequence", "B"):
        return
    names = specials.names
    separators = (names.get("sep"), names.get("eos"))
    middle = pair[1:-1]
    adds = middle[0][0] == "SpecialToken" and middle[0][1] in separators and not last
    if len(middle) == 2 and middle[1][0] == "SpecialToken" and middle[1][1] in separators:
        adds = True
    specials.add["sep"] = adds
    if adds and "eos" in names:
        names.setdefault("sep", names["eos"])


def chat_metadata(files: Files) -> dict[str, Typed]:
    """`tokenizer.chat_template` and the named ones, from wherever the folder keeps them.

    Where it keeps two, chat_template.jinja counts, as in transformers; gguf-py takes the other, which is older.
    """
    item = files.json("tokenizer_config.json").get("chat_template")
    if item.value is None or "chat_template.jinja" in files:
        item = _chat_files(files)
    if item.value is None:
        return {}
    if isinstance(item.value, str):
        return {CHAT_TEMPLATE: Typed("str", item.value)}
    named: dict[str, str] = {}
    for choice in item.items():
        name = "".join(c if c.isascii() and c.isalnum() else "_" for c in choice.get("name").string())
        if name and choice.get("template").value is not None:
            named[name] = choice.get("template").string()
    default = named.pop("default", None)
    metadata = {f"{CHAT_TEMPLATE}.{name}": Typed("str", text) for name, text in named.items()}
    if named:
        metadata[CHAT_TEMPLATES] = Typed("[str]", list(named))
    if default is not None:
        metadata[CHAT_TEMPLATE] = Typed("str", default)
    return metadata


def _chat_files(files: Files) -> Item:
    if "chat_template.jinja" not in files:
        return files.json("chat_template.json").get("chat_template")
    default, path = files.text("chat_template.jinja"), files.path("chat_template.jinja")
    more: list[Json] = [
        {"name": name.removeprefix("additional_chat_templates/").removesuffix(".jinja"), "template": files.text(name)}
        for name in files.checkpoint.files
        if name.startswith("additional_chat_templates/") and name.endswith(".jinja")
    ]
    if not more:
        return Item(path, "", default)
    return Item(path, "chat_template", [{"name": "default", "template": default}, *more])


def _normalizer_flags(normalizer: Item) -> dict[str, Typed]:
    flags: dict[str, Typed] = {}
    if normalizer.value is None:
        return flags
    kind = normalizer.get("type").value
    if kind == "Lowercase":
        flags[LOWERCASE] = Typed("bool", True)
    elif kind == "StripAccents":
        flags[STRIP_ACCENTS] = Typed("bool", True)
    elif kind == "BertNormalizer":
        for key, name in ((LOWERCASE, "lowercase"), (STRIP_ACCENTS, "strip_accents")):
            if normalizer.get(name).value is not None:
                flags[key] = Typed("bool", normalizer.get(name).flag())
    elif kind == "Sequence":
        for part in normalizer.get("normalizers").items():
            flags.update(_normalizer_flags(part))
    return flags
