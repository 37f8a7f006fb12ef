"""What the user has named, and what of it was chosen; what hits nothing is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from requant.errors import PlanError
from requant.formats import opened
from requant.ir import Checkpoint, Tensor

T = TypeVar("T")


def compiled(pattern: str, option: str) -> re.Pattern[str]:
    """A regular expression; raises `click.BadParameter` for what is none."""
    from requant.patterns import of_the_user

    try:
        return of_the_user(pattern)
    except re.error as error:
        raise click.BadParameter(f"not a regular expression: {error}", param_hint=option) from error


def chosen(items: Sequence[T], name: Callable[[T], str], pattern: str | None, option: str, whose: str) -> Sequence[T]:
    """Tensors whose name contains a match; all without a pattern. Raises `PlanError` where none does."""
    if pattern is None:
        return items
    wanted = compiled(pattern, option)
    found = [item for item in items if wanted.search(name(item))]
    if not found:
        raise PlanError(
            f"{whose}: no name of its {len(items)} tensors contains a match for {pattern!r}",
            hint="`requant inspect --tensors .` lists them all",
        )
    return found


def model_or_imatrix(path: Path) -> tuple[str, Checkpoint[Tensor]]:
    """The name of the format, and what is there; importance matrices of the old form have no magic."""
    if path.suffix == ".dat":
        from requant.formats.imatrix import imatrix_checkpoint, read_imatrix

        return "imatrix", imatrix_checkpoint(read_imatrix(path))
    found, checkpoint = opened(path, as_stored=True)
    return found.name, checkpoint
