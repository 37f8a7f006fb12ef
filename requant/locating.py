"""Where a model is that is named by a path, by its name on the Hub, or by an address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from requant.errors import FormatError, PlanError
from requant.journal import finish_around
from requant.nearest import files_like

if TYPE_CHECKING:
    from requant.glimpse import Glimpse
    from requant.hub import HubModel


def located(
    model: str,
    on_fetch: Callable[[HubModel], None] = lambda model: None,
    glimpsed: Callable[[Glimpse], None] | None = None,
) -> Path:
    """The file or folder of that name, or the copy in the cache of a model of that name on the Hub.

    on_fetch: called before the Hub is asked. glimpsed: headers are enough, and this is called with what was fetched.
    Raises `FormatError` or `PlanError` where there is none.
    """
    path = Path(model)
    finish_around(path)
    if path.exists():
        return path if path != Path() else path.absolute()
    from requant.hub import HubModel

    named = HubModel.named(model)
    if named is None and "://" in model:
        return _at_address(model, glimpsed)
    if named is None:
        raise FormatError(path, "there is no such file or folder", hint=files_like(path))
    on_fetch(named)
    return named.fetch() if glimpsed is None else named.glimpse(glimpsed)


def _at_address(url: str, glimpsed: Callable[[Glimpse], None] | None) -> Path:
    from requant.remote_model import glimpse_at, is_address

    if not is_address(url):
        raise PlanError(f"{url}: no address of a model", hint="download it, and name the copy")
    if glimpsed is None:
        raise PlanError(f"{url}: this command reads files of this machine", hint="download it, and name the copy")
    found = glimpse_at(url)
    glimpsed(found)
    return found.path
