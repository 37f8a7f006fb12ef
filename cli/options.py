"""Options that all kinds of commands share, and the values they become."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

from requant.cli.terminal import remark
from requant.errors import FormatError, PlanError
from requant.journal import finish_around

if TYPE_CHECKING:  # whoever asks for help waits for none of these
    from requant.glimpse import Glimpse
    from requant.hub import HubModel

F = TypeVar("F", bound=Callable[..., Any])

#: Bytes of the longest text that is read whole.
MAX_TEXT: Final = 64 << 20
#: More would only wait for each other.
MAX_THREADS: Final = 512


def gathered(argument: str, kind: type, *options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Options whose values reach a command as one `argument`: a `kind`, with a field for each of them."""
    names = [field.name for field in fields(kind)]

    def decorate(function: F) -> F:
        @wraps(function)
        def command(**values: object) -> None:
            function(**{argument: kind(**{name: values.pop(name) for name in names})}, **values)

        decorated: Any = command
        for option in reversed(options):
            decorated = option(decorated)
        return cast(F, decorated)

    return decorate


class Number(click.FloatRange):
    """A number in a range, of which NaN is no part: whatever is compared with it would be false."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises `click.BadParameter` for what is no number, or is out of the range."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


#: Shared by every command whose document can be a page; `requant.cli.pages.writing` makes it.
html_option = click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write a page to look at: one file, which loads nothing (requant[html]).",
)


def located(model: str, quiet: bool = False, *, headers: bool = False, stream: bool | None = None) -> Path:
    """The file or folder the user names, or the copy in the cache of a model of that name on the Hugging Face Hub.

    headers: they are enough; of a model that the cache has not, nothing else is fetched. stream: the rest is fetched
    when it is read; False: only of what is given by its address.
    """
    headers = headers or bool(stream) or (stream is not None and "://" in model)
    from requant.cli.tables import size
    from requant.locating import located

    def tell(named: HubModel) -> None:
        if quiet or not sys.stderr.isatty():
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when the library is imported
        if not quiet:
            remark(f"{named.repo}: from the Hugging Face Hub")

    def glimpsed(found: Glimpse) -> None:
        if not quiet:
            remark(f"headers of {found.files} files: {size(found.fetched)} fetched of {size(found.nbytes)}")

    return located(model, tell, glimpsed if headers else None)


def read_text(path: Path) -> str:
    """A text file the user names; raises `FormatError` for what is none."""
    if not path.is_file():  # a device may have no end
        raise FormatError(path, "this is no regular file" if path.exists() else "there is no such file")
    if path.stat().st_size > MAX_TEXT:
        raise FormatError(path, f"more than {MAX_TEXT >> 20} MB", hint="is this a text file?")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(path, "this is not UTF-8 text", offset=error.start) from None


def refuse_to_overwrite(destination: Path, force: bool) -> None:
    """An existing file, or a folder with something in it, needs `--force`."""
    finish_around(destination)
    taken = (destination.is_dir() and any(destination.iterdir())) or (destination.exists() and not destination.is_dir())
    if taken and not force:
        raise PlanError(f"{destination} exists", hint="--force replaces it")
