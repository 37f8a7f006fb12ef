"""The model card: what README.md says about a model at its top, and the `general.*` keys that mean the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from requant.ir import Checkpoint, Tensor, Typed
from requant.losses import Loss, LossKind
from requant.sources import Memory, Source, read

NAME: Final = "README.md"
#: Larger files are not read.
_LARGEST: Final = 16 << 20
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
    if source is None or source.nbytes > _LARGEST:
        return {}, []
    lines = read(source).tobytes().decode("utf-8", "replace").splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}, []
    import yaml

    text = "\n".join(lines[1 : lines.index("---", 1)]) + "\n"
    # `no` is Norwegian, not false; tabs are not YAML, yet people write them
    text = text.replace("- no\n", '- "no"\n').replace("\t", "  ")
    try:
        card = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}, [Loss(LossKind.METADATA_DROPPED, NAME, "its front matter is not YAML")]
    return (card if isinstance(card, dict) else {}), []


def write_card(metadata: Mapping[str, Typed]) -> tuple[dict[str, Source], set[str]]:
    """README.md for a GGUF's metadata, if it says anything a card can say; and the keys that are in it."""
    lines, written = [], set()
    for name, key in FIELDS:
        value = metadata[key].value if key in metadata else None
        if isinstance(value, bool | int | float) or value is None:
            continue
        items = value if isinstance(value, str) else [*value] if len(value) <= _LONGEST else None
        if items is None or not all(isinstance(item, str) and item.isprintable() for item in items):
            continue
        lines.append(f"{name}: {json.dumps(items, ensure_ascii=False)}")  # JSON is YAML
        written.add(key)
    if not lines:
        return {}, set()
    title = metadata["general.name"].value if "general.name" in written else "Model"
    text = "\n".join(["---", *lines, "---", "", f"# {title}", ""])
    return {NAME: Memory(text.encode())}, written
