"""Whether two processes have the same plan: a digest of everything that decides what is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from requant.plan import Plan
from requant.run_journal import Beginning
from requant.sources import FileSlice, Source, described


def beginning_of(plans: Iterable[Plan], inputs: Iterable[Source], how: object) -> Beginning:
    """What plans are, and the files that they read. how: whatever else decides on the bytes that are written."""
    digest = hashlib.sha256()
    for one in (own_version(), how, *chain.from_iterable((plan.layout.files, plan.steps) for plan in plans)):
        _add(digest, one)
    files = {}
    for source in inputs:
        found = getattr(source, "file", source)  # a view of a file has its file
        if isinstance(found, FileSlice) and (said := described(found)) is not None:
            files[said[0]] = said[1]
    return Beginning(digest.hexdigest(), files)


def own_version() -> str:
    """The version of requant; empty where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # which takes its time to import

    try:
        return version("requant")
    except PackageNotFoundError:
        return ""


def _add(digest: Any, value: object) -> None:
    """What a value is made of, to its leaves. Of files only what is read of them: whether they are the ones that they
    were is said apart, with their names."""
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    elif isinstance(value, bytes):
        digest.update(b"%d:" % len(value) + value)
    elif isinstance(value, FileSlice):
        digest.update(f"{value.path.name}\0{value.offset}\0{value.nbytes}".encode())
    elif value is None or isinstance(value, str | int | float | Enum | Path):
        digest.update(f"{type(value).__name__}={value!r};".encode())
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _add(digest, key)
            _add(digest, inner)
    elif isinstance(value, Iterable) and not is_dataclass(value):
        digest.update(type(value).__name__.encode() + b"(")
        for inner in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            _add(digest, inner)
        digest.update(b")")
    elif (callable(value) and not hasattr(value, "__dict__")) or isinstance(value, type):
        digest.update(getattr(value, "__qualname__", type(value).__name__).encode())
    else:
        _add_object(digest, value)


def _add_object(digest: Any, value: object) -> None:
    digest.update(f"{type(value).__qualname__}{{".encode())
    if isinstance(value, partial):
        _add(digest, (value.func, value.args, value.keywords))
    elif hasattr(value, "__qualname__"):  # a function, and what it has from around it
        digest.update(str(value.__qualname__).encode())
        _add(digest, tuple(cell.cell_contents for cell in getattr(value, "__closure__", None) or ()))
    elif is_dataclass(value):  # and nothing that it has found out about itself
        for field in fields(value):
            if not field.name.startswith("_"):
                _add(digest, getattr(value, field.name))
    else:
        _add(digest, {name: getattr(value, name) for name in _names(value)})
    digest.update(b"}")


def _names(value: object) -> list[str]:
    slots = chain.from_iterable(getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
    return sorted({*(name for name in slots if hasattr(value, name)), *getattr(value, "__dict__", ())})
