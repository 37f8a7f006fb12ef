"""The tokenizer files of an HF folder, read without trust: every surprise names the file and the item."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from requant.errors import FormatError
from requant.ir import Checkpoint, Json, Tensor, text_config
from requant.sources import read


@dataclass(frozen=True, slots=True)
class Item:
    """A value inside a JSON file that remembers where it is, so that a wrong type can say so."""

    path: Path
    where: str
    value: Json

    def get(self, key: str) -> Item:
        """The member `key` of an object; null when it is absent."""
        return Item(self.path, f"{self.where}.{key}".lstrip("."), self.object().get(key))

    def object(self) -> dict[str, Json]:
        """A JSON object."""
        if isinstance(self.value, dict):
            return self.value
        raise self.wrong("an object")

    def array(self) -> list[Json]:
        """A JSON array."""
        if isinstance(self.value, list):
            return self.value
        raise self.wrong("an array")

    def items(self) -> Iterator[Item]:
        """The members of an array; none when it is null."""
        for index, value in enumerate([] if self.value is None else self.array()):
            yield Item(self.path, f"{self.where}[{index}]", value)

    def string(self, default: str | None = None) -> str:
        """A string; `default` stands for null."""
        value = default if self.value is None else self.value
        if isinstance(value, str):
            return value
        raise self.wrong("a string")

    def integer(self) -> int:
        """An integer that is not negative."""
        if isinstance(self.value, int) and not isinstance(self.value, bool) and self.value >= 0:
            return self.value
        raise self.wrong("a non-negative integer")

    def number(self) -> float:
        """A number."""
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            return float(self.value)
        raise self.wrong("a number")

    def flag(self, default: bool = False) -> bool:
        """A boolean; `default` stands for null."""
        value = default if self.value is None else self.value
        if isinstance(value, bool):
            return value
        raise self.wrong("true or false")

    def wrong(self, expected: str) -> FormatError:
        """The error that says what stands here instead of `expected`."""
        shown = json.dumps(self.value, ensure_ascii=False)[:60]
        return FormatError(self.path, f"{self.where or 'the file'} must be {expected}, found {shown}")


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
        try:
            value = json.loads(self.text(name))
        except RecursionError:
            raise FormatError(path, "not usable JSON: nested too deeply") from None
        except ValueError as error:
            raise FormatError(path, f"not JSON: {error}", hint="is the download complete?") from None
        item = Item(path, "", value)
        item.object()
        return item


def config_value(config: Mapping[str, Json], key: str) -> Json:
    """A value of config.json, or of its `text_config` for models that can also see or hear."""
    if config.get(key) is not None:
        return config[key]
    return text_config(config).get(key)
