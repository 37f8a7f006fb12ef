"""What is supported, family by family, read off the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from requant.architectures.rules import Family


@dataclass(frozen=True, slots=True)
class Overview:
    """One family of models.

    architecture: of a GGUF. model_type, classes: of config.json. back: the class that a GGUF becomes. lost: what is
    left out on the way to GGUF, where a model has it, and why.
    """

    architecture: str
    model_type: str
    classes: tuple[str, ...]
    back: str
    lost: tuple[str, ...]


def overview(families: Sequence[Family]) -> tuple[Overview, ...]:
    """All families, by architecture."""
    return tuple(sorted(map(_of, families), key=lambda item: (item.architecture, item.model_type)))


def _of(family: Family) -> Overview:
    scoring = family.classifier.classes if family.classifier else ()
    reasons = [item.reason for item in family.ignored if item.lost]
    settings = [f"{item.hf}: {item.loss}" for item in family.assumptions if item.loss]
    back = family.alone[0] if family.alone else family.classes[0]
    return Overview(family.ggml, family.model_type, (*family.classes, *scoring), back, (*reasons, *settings))
