"""The model card: what README.md says about a model at its top, and the `general.*` keys that mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from requant.cards import NAME, front_matter, plain, split_card
from requant.ir import Checkpoint, Tensor, Typed
from requant.losses import Loss, LossKind
from requant.sources import Memory, Source, read

#: Larger files are not read.
LARGEST: Final = 16 << 20
#: Longer lists of tags are not written.
_LONGEST: Final = 1000

#: Names in the card's front matter that the `gguf` package reads, and their keys.
FIELDS: Final = (
    ("model_name", "general.name"),
    ("author", "general.author"),
    ("version", "general.version"),
    ("organization", "general.organization"),
    ("description", "general.description"),
    ("finetune", "general.finetune"),
    ("basename", "general.basename"),
    ("license", "general.license"),
    ("license_name", "general.license.name"),
    ("license_link", "general.license.link"),
    ("tags", "general.tags"),
    ("language", "general.languages"),
)


def read_card(checkpoint: Checkpoint[Tensor]) -> tuple[dict[str, Any], list[Loss]]:
    """The front matter of README.md; a `Loss` if it is no YAML."""
    source = checkpoint.files.get(NAME)
    if source is None or source.nbytes > LARGEST:
        return {}, []
    return parsed(card_text(source))


def card_text(source: Source) -> str:
    """What a card says; bytes that are no UTF-8 are replaced."""
    return read(source).tobytes().decode("utf-8", "replace")


def parsed(text: str) -> tuple[dict[str, Any], list[Loss]]:
    """The front matter of a card; a `Loss` if it is no YAML."""
    front, _ = split_card(text)
    if not front:
        return {}, []
    import yaml

    # `no` is Norwegian, not false; tabs are not YAML, yet people write them
    front = front.replace("- no\n", '- "no"\n').replace("\t", "  ")
    try:
        card = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}, [Loss(LossKind.METADATA_DROPPED, NAME, "its front matter is not YAML")]
    return (card if isinstance(card, dict) else {}), []


def write_card(metadata: Mapping[str, Typed]) -> tuple[dict[str, Source], set[str]]:
    """README.md for a GGUF's metadata, if it says anything a card can say; and the keys that are in it."""
    said: dict[str, object] = {}
    for name, key in FIELDS:
        value = metadata[key].value if key in metadata else None
        if isinstance(value, bool | int | float) or value is None:
            continue
        items = value if isinstance(value, str) else [*value] if len(value) <= _LONGEST else None
        if items is None or not all(isinstance(item, str) and item.isprintable() for item in items):
            continue
        said[name] = items
    if not said:
        return {}, set()
    text = f"{front_matter(said)}\n# {plain(str(said.get('model_name', 'Model')))}\n"
    return {NAME: Memory(text.encode())}, {key for name, key in FIELDS if name in said}
