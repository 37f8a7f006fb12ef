"""Who is told while a plan measures layers; a module of its own, so that telling does not import what measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Called with (layers measured, layers in all) while options are measured, from any thread.
on_measured: Final[list[Callable[[int, int], None]]] = []
