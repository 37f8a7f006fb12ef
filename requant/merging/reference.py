"""Which model a recipe means: a path, or a name of the Hub, perhaps with an adapter that is put on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from requant.merging.entry import Entry


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """model, lora: as the user names them, `owner/name@revision` included."""

    model: str
    lora: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """`model` or `model+lora`.

        >>> Reference.parse("base+adapter")
        Reference(model='base', lora='adapter')
        """
        model, plus, lora = text.partition("+")
        return cls(model, lora) if plus and model and lora else cls(text)

    @classmethod
    def of(cls, entry: Entry) -> Reference:
        """As a recipe writes it: a text, or a mapping of model, lora and their revisions."""
        if isinstance(entry.value, str):
            found = cls.parse(entry.text())
            if found.lora is not None and "+" in found.lora:
                raise entry.wrong("more than one adapter; merge them one after another")
            return found
        members = entry.members(("model", "lora", "override_architecture"))
        if "override_architecture" in members:
            raise members["override_architecture"].wrong("is not supported: the model's own config.json decides")
        if "model" not in members:
            raise entry.wrong("names no model")
        lora = _path(members["lora"]) if "lora" in members else None
        return cls(_path(members["model"]), lora)

    @property
    def place(self) -> tuple[Path, Path | None]:
        """The same for all ways to write the path of one model."""
        return Path(self.model).resolve(), None if self.lora is None else Path(self.lora).resolve()

    def __str__(self) -> str:
        """As a recipe writes it."""
        return self.model if self.lora is None else f"{self.model}+{self.lora}"


def _path(entry: Entry) -> str:
    if isinstance(entry.value, str):
        return entry.text()
    members = entry.members(("path", "revision"))
    if "path" not in members:
        raise entry.wrong("names no path")
    revision = f"@{members['revision'].text()}" if "revision" in members else ""
    return members["path"].text() + revision
