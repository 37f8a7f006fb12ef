"""Whether two processes have the same plan: a digest of everything that decides what is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, partial
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any, Final

import numpy as np

from requant import __version__
from requant.plan import Plan
from requant.run_journal import Beginning
from requant.sources import FileSlice, Source, described


def beginning_of(plans: Iterable[Plan], inputs: Iterable[Source], how: object) -> Beginning:
    """What plans are, and the files that they read. how: whatever else decides on the bytes that are written."""
    known = _Known()
    said = [_said(__version__, known), _said(how, known)]
    for plan in plans:
        said += [_said(plan.layout.files, known), _said(plan.steps, known)]
    found = (getattr(source, "file", source) for source in inputs)  # a view of a file has its file
    files = {(one.path, one.identity): one for one in found if isinstance(one, FileSlice)}
    return Beginning(_digest("".join(said).encode()), dict(filter(None, map(described, files.values()))))


#: Objects that were looked at, and the digest of each: the same encodings and tensors are found again and again.
_Known = dict[int, tuple[object, str]]
_LEAVES: Final = (str, int, float, Enum, Path, NoneType)


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _said(value: object, known: _Known) -> str:
    """What a value is made of, to its leaves. Of files only what is read of them: whether they are the ones that they
    were is said apart, with their names."""
    kind = type(value)
    if isinstance(value, _LEAVES):
        return f"{kind.__name__}={value!r};"
    if isinstance(value, FileSlice):
        return f"{value.path.name!r}:{value.offset}:{value.nbytes};"
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str}{value.shape}{_digest(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)}"
    if isinstance(value, bytes):
        return _digest(value)
    if isinstance(value, Mapping):
        return "".join([_said(key, known) + _said(inner, known) for key, inner in value.items()]) + ";"
    if isinstance(value, Iterable) and not is_dataclass(value):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return f"{kind.__name__}({''.join([_said(one, known) for one in items])})"
    if (callable(value) and not hasattr(value, "__dict__")) or isinstance(value, type):
        return str(getattr(value, "__qualname__", kind.__name__)) + ";"
    if id(value) not in known:
        known[id(value)] = value, _digest(_object_said(value, known).encode())  # held, so that no other gets its id
    return known[id(value)][1]


def _object_said(value: object, known: _Known) -> str:
    kind: Any = type(value)
    if isinstance(value, partial):
        said = _said((value.func, value.args, value.keywords), known)
    elif hasattr(value, "__qualname__"):  # a function, and what it has from around it
        around = tuple(cell.cell_contents for cell in getattr(value, "__closure__", None) or ())
        said = f"{value.__qualname__}{_said(around, known)}"
    elif is_dataclass(value):  # and nothing that it has found out about itself
        said = "".join([_said(getattr(value, name), known) for name in _fields(kind)])
    else:
        said = _said({name: getattr(value, name) for name in _names(value)}, known)
    return f"{kind.__qualname__}{{{said}}}"


@cache
def _fields(kind: Any) -> list[str]:
    return [field.name for field in fields(kind) if not field.name.startswith("_")]


def _names(value: object) -> list[str]:
    slots = chain.from_iterable(getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
    return sorted({*(name for name in slots if hasattr(value, name)), *getattr(value, "__dict__", ())})
