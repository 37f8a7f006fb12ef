"""The tokenizer files of an HF folder, read without trust: every surprise names the file and the item."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from requant.errors import FormatError
from requant.ir import Checkpoint, Json, Tensor, text_config
from requant.json_values import TOKENIZER, Item, parse_json
from requant.sources import read

#: Files that say what tokens there are, and how they are used.
TOKENIZER_FILE: Final = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(?:json|txt)|merges\.txt|chat_template\..*"
    r"|tekken\.json|.*\.tiktoken|tiktoken\.model|spiece\.model|sentencepiece\.bpe\.model"
    r"|additional_chat_templates/.*\.jinja"
)


def steps(tokenizer: Item, part: str) -> Iterator[Item]:
    """What the `normalizer` or `pre_tokenizer` of a tokenizer.json does, one thing after another: no sequences."""
    waiting = [tokenizer.get(part)]
    while waiting:
        item = waiting.pop(0)
        if item.value is None:
            continue
        if item.get("type").value == "Sequence":
            waiting[:0] = item.get("normalizers" if part == "normalizer" else "pretokenizers").items()
        else:
            yield item


def puts_space_before(metaspace: Item) -> str:
    """`always`, `first` (not after special tokens) or `never`: old files say so with a flag."""
    return metaspace.get("prepend_scheme").string("always" if metaspace.get("add_prefix_space").flag(True) else "never")


@dataclass(frozen=True, slots=True)
class Files:
    """The files beside the weights, parsed when asked for; `rows`: of the token embedding, if that is known."""

    checkpoint: Checkpoint[Tensor]
    rows: int | None = None
    _parsed: dict[str, Item] = field(default_factory=dict)  # a tokenizer.json takes 0.2 s

    def __contains__(self, name: str) -> bool:
        return name in self.checkpoint.files

    def path(self, name: str) -> Path:
        """Where `name` lies, for messages."""
        return self.checkpoint.folder / name

    def data(self, name: str) -> bytes:
        """The bytes of a file that is there."""
        return read(self.checkpoint.files[name]).tobytes()

    def text(self, name: str) -> str:
        """The text of a file that is there."""
        try:
            return self.data(name).decode().removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise FormatError(self.path(name), f"not UTF-8: {error.reason}", offset=error.start) from None

    def json(self, name: str) -> Item:
        """The JSON object in a file; an empty one when there is no such file."""
        if name not in self._parsed:
            self._parsed[name] = self._parse(name)
        return self._parsed[name]

    def _parse(self, name: str) -> Item:
        path = self.path(name)
        if name not in self:
            return Item(path, "", {})
        source = self.checkpoint.files[name]
        if source.nbytes > TOKENIZER.nbytes:
            raise FormatError(path, f"{source.nbytes:,} bytes; at most {TOKENIZER.nbytes:,} are read")
        item = parse_json(self.data(name), path, TOKENIZER)
        item.object()
        return item


def config_value(config: Mapping[str, Json], key: str) -> Json:
    """A value of config.json, or of its `text_config` for models that can also see or hear."""
    if config.get(key) is not None:
        return config[key]
    return text_config(config).get(key)
