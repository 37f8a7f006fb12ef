"""What a model is called: from its card, `_name_or_path`, and its folder, as llama.cpp's converter guesses it.

The rules are those of gguf-py's `Metadata` (https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/metadata.py),
which tests hold this to; to import that package takes longer than all of the plan of a small model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from requant.ir import Typed

_VERSION: Final = re.compile(r"(v|iter)?\d+([.]\d+)*", re.IGNORECASE)
_TYPE: Final = re.compile(r"i?q\d(_\w)*|b?fp?(16|32)", re.IGNORECASE)
_SIZE: Final = re.compile(
    r"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)",
    re.IGNORECASE,
)
_TUNED: Final = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)
_HUB: Final = re.compile(r"https?://huggingface.co/([^/]+/[^/]+)$")
_UNITS: Final = " KMBT"

#: Key -> what cards call it; the first that says something counts.
_TEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "name": ("name", "model_name"),
    "author": ("author", "model_author", "model_creator"),
    "version": ("version", "model_version"),
    "organization": ("organization", "model_organization"),
    "finetune": ("finetune", "model_finetune"),
    "basename": ("basename", "model_basename", "model_type"),
    "description": ("description", "model_description"),
    "size_label": ("size_label", "model_size_label"),
    "license": ("license",),
    "license.name": ("license_name",),
    "license.link": ("license_link",),
    "source.url": ("url", "model_url"),
    "source.doi": ("doi", "model_doi"),
    "source.uuid": ("uuid", "model_uuid"),
    "source.repo_url": ("repo_url", "model_repo_url"),
}
#: The same of lists; all of them count.
_LISTS: Final = {"tags": ("tags", "pipeline_tag"), "languages": ("languages", "language")}
#: And of what a model was made of: the first that is there counts.
_ORIGINS: Final = {
    "base_model": ("base_model", "base_models", "base_model_sources"),
    "dataset": ("datasets", "dataset", "dataset_sources"),
}
#: What can be said of one of those, in the order of the file.
_OF_AN_ORIGIN: Final = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")


@dataclass(frozen=True, slots=True)
class Named:
    """The parts of a model's name, as `OWNER/Base-7B-Instruct-v0.1` has them; None for what it has not."""

    name: str | None = None
    organization: str | None = None
    basename: str | None = None
    finetune: str | None = None
    version: str | None = None
    size_label: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Key -> text, in titles where a person would write one."""
        said = {field: getattr(self, field) for field in ("basename", "finetune", "version", "size_label")}
        return {"name": titled(self.name), "organization": titled(self.organization), **said}


def titled(text: str | None) -> str | None:
    """As a title; what has capitals already, versions and sizes stay.

    >>> titled("tiny-llama-v1.0-1b")
    'Tiny Llama v1.0 1b'
    """
    if text is None:
        return None
    words = text.strip().replace("-", " ").split()
    return " ".join(
        word.title() if word.islower() and not re.match(r"^(v\d+(?:\.\d+)*|\d.*)$", word) else word for word in words
    )


def parts_of(text: str, weights: int = 0) -> Named:
    """The parts of a name. weights: a number in it that is far from so many is the length of a context, no size.

    >>> parts_of("mistralai/Mixtral-8x7B-Instruct-v0.1").size_label
    '8x7B'
    """
    if " " in text:  # a sentence of people
        return Named(text)
    owner, slash, name = text.partition("/") if "/" in text else ("", "", text)
    words = [word for word in name.split("-") if word]
    kinds: list[set[str]] = []
    for n, word in enumerate(words):
        words[n], kind = _kind(word, weights, first=n == 0)
        kinds.append({kind} if kind else set())
    _settle(words, kinds)

    def of(kind: str, *, but: str = "") -> list[str]:
        return [word for word, one in zip(words, kinds, strict=True) if kind in one and but not in one]

    size = "-".join(dict.fromkeys(of("size"))) or None
    finetune, version = "-".join(of("finetune")) or None, "-".join(of("version", but="base")) or None
    clear = size is not None or finetune is not None or version is not None
    base = "-".join(of("base")) or None if clear else None
    organization = owner if slash and not owner.startswith(".") else None
    return Named(name, organization, base, finetune, version, size)


def _kind(word: str, weights: int, *, first: bool) -> tuple[str, str]:
    """A word of a name as it is written out, and what it is; "" where its place decides."""
    if _VERSION.fullmatch(word):
        return word, "version"
    if _TYPE.fullmatch(word):
        return word.upper(), "type"
    if not first and _SIZE.fullmatch(word):
        return _sized(word, weights)
    return word, "finetune" if not first and _TUNED.fullmatch(word) else ""


def _sized(word: str, weights: int) -> tuple[str, str]:
    word = word.replace("_", ".")
    if word[-1].isdecimal():  # bloom-7b1
        word = f"{word[:-2]}.{word[-1]}{word[-2]}"
    if len(word) > 1 and word[-2].isdecimal():
        word = word[:-1] + word[-1].upper()
    try:
        size = float(word[:-1]) * 1000.0 ** _UNITS.find(word[-1])
    except ValueError:  # `large`, `8x7B`
        return word, "size"
    if weights and abs(size - weights) > 7 * weights // 8:
        return word[:-1] + word[-1].lower(), "finetune"
    return word, "size"


def _settle(words: Sequence[str], kinds: Sequence[set[str]]) -> None:
    """Decide what only its place tells: the base comes first, and versions in it belong to it, but for the last."""
    sizes = [(word, kind) for word, kind in zip(words, kinds, strict=True) if "size" in kind]
    if any(letter.isdecimal() for word, _ in sizes for letter in word):
        for word, kind in sizes:
            if word.isalpha():  # numbers say it better
                kind.remove("size")
    at_start = True
    for word, kind in zip(words, kinds, strict=True):
        if at_start and ((not kind and word[0].isalpha()) or "version" in kind):
            kind.add("base")
            continue
        at_start = False
        if not kind:
            kind.add("finetune")
    for kind in reversed(kinds):
        if "base" not in kind or len(kind) < 2:
            return
        kind.remove("base")


def guessed(
    card: Mapping[str, Any], names: Sequence[str], weights: int, label: str, fallback: str
) -> tuple[dict[str, Typed], list[str]]:
    """`general.*` from a card and from names, the first of which count most; and what is strange about the card.

    label: of the size, where nothing says it. fallback: the name, where nothing does. Raises `TypeError` for a licence
    that is a list of anything but texts.
    """
    said: dict[str, Any] = {key: _first(card, known) for key, known in _TEXTS.items()}
    for text in names:
        for key, value in parts_of(text, weights).to_json().items():
            said[key] = value if said[key] is None else said[key]
    said["name"] = fallback if said["name"] is None else said["name"]
    said["size_label"] = (label or None) if said["size_label"] is None else said["size_label"]
    if isinstance(said["license"], list):
        said["license"] = ",".join(said["license"])
    found = {f"general.{key}": Typed("str", str(value)) for key, value in said.items() if value}
    strange: list[str] = []
    for key, known in _ORIGINS.items():
        found |= _origins(card, key, known, weights, strange)
    for key, lists in _LISTS.items():
        items = [str(item) for name in lists for item in _listed(card.get(name))]
        found |= {f"general.{key}": Typed("[str]", items)} if items else {}
    return found, strange


def _first(card: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((card[name] for name in names if card.get(name) is not None), None)


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else value if isinstance(value, list) else []


def _origins(
    card: Mapping[str, Any], key: str, known: Sequence[str], weights: int, strange: list[str]
) -> dict[str, Typed]:
    """What a model was made of, counted and told; `strange` gets what makes no sense."""
    name = next((name for name in known if name in card), None)
    if name is None:
        return {}
    entries = _listed(card[name])
    found = {f"general.{key}.count": Typed("u32", len(entries))}
    for n, entry in enumerate(entries):
        if not isinstance(entry, str | dict):
            strange.append(f"{key.replace('_', ' ')} entry '{entry}' not in a known format")
            continue
        told = entry if isinstance(entry, dict) else _origin(entry, weights)
        for field in _OF_AN_ORIGIN:
            if told.get(field):
                found[f"general.{key}.{n}.{field}"] = Typed("str", str(told[field]))
    return found


def _origin(text: str, weights: int) -> dict[str, str | None]:
    """What the name of a model on the Hub, or an address, tells."""
    address = text.startswith(("http://", "https://", "ssh://"))
    on_hub = _HUB.match(text) if address else None
    if address and on_hub is None:
        return {"repo_url": text}
    named = parts_of(on_hub[1] if on_hub else text, weights)
    told = named.to_json()
    owned = None if named.organization is None else f"https://huggingface.co/{named.organization}/{named.name}"
    url = text if address else owned
    return {"name": told["name"], "organization": told["organization"], "version": named.version, "repo_url": url}


def size_label(total: int, shared: int, expert: int, experts: int) -> str:
    """How large a model is, in two digits.

    >>> size_label(134_515_008, 134_515_008, 0, 0), size_label(46_700_000_000, 1_600_000_000, 5_630_000_000, 8)
    ('135M', '8x7.2B')
    """
    number = shared + expert if experts else total
    power = next((power for power in (4, 3, 2) if number > 1000.0**power), 1)
    scaled = number * (1 / 1000.0**power)
    digits = max(2 - len(str(round(scaled)).lstrip("0")), 0)
    return (f"{experts}x" if experts else "") + f"{scaled:.{digits}f}{_UNITS[power]}"
