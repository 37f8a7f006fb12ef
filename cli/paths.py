"""Files that a user names and that must be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from requant.nearest import files_like


class Existing(click.Path):
    """As click's own; a name that is none is answered with those beside it that are most like it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; `BadParameter` where there is none."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = "" if Path(value).exists() else files_like(Path(value))
            if not hint:
                raise
            self.fail(f"{error.message} D{hint[1:]}", param, ctx)


#: A file, as a `Path`.
FILE: Final = Existing(exists=True, dir_okay=False, path_type=Path)
#: The same, or a folder.
ANYTHING: Final = Existing(exists=True, path_type=Path)
