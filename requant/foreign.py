"""What lies in a model's folder and is not the model: it outlives the exchange of the folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from requant import system
from requant.staging import SUFFIX, Staging, has_name

#: More than these are left where they are; the new files then come to them, one by one.
_MOST: Final = 1000


def carry_along(old: Path, new: Path, replaced: Collection[str]) -> bool:
    """Give everything in `old` but the files `replaced` a second name in `new`, and `new` the access that `old` has.

    False where that cannot be: too many of them, another file system inside, an owner that cannot be given, a file
    system that has no second names. Links stay links.
    """
    try:
        entries = _entries(old, replaced)
        if entries is None:
            return False
        folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        for entry in entries:
            target = new / Path(entry.path).relative_to(old)
            if entry.is_dir(follow_symlinks=False):
                target.mkdir(exist_ok=True)
            else:
                os.link(entry.path, target, follow_symlinks=False)
        for entry in reversed(folders):
            if not system.same_access(new / Path(entry.path).relative_to(old), Path(entry.path)):
                return False
        return system.same_access(new, old)
    except (OSError, NotImplementedError):
        return False


def rescue(old: Path, new: Path, replaced: Collection[str]) -> None:
    """Bring over what came into `old`, or was replaced there, after `carry_along` and before the exchange."""
    for entry in _entries(old, replaced) or ():
        target = new / Path(entry.path).relative_to(old)
        if entry.is_dir(follow_symlinks=False):
            target.mkdir(exist_ok=True)
        elif not has_name(target) or not os.path.samestat(entry.stat(follow_symlinks=False), target.lstat()):
            os.replace(entry.path, target)  # noqa: PTH105 - an entry is no Path


def _entries(root: Path, replaced: Collection[str]) -> list[os.DirEntry[str]] | None:
    """Everything in a folder and its subfolders, a folder before what is in it; None if it is too much."""
    found: list[os.DirEntry[str]] = []
    for entry in _walk(root, root, replaced):
        found.append(entry)
        if len(found) > _MOST:
            return None
    return found


def _walk(folder: Path, root: Path, replaced: Collection[str]) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name = Path(entry.path).relative_to(root).as_posix()
        if name in replaced or _is_left_over(entry, replaced):
            continue
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), root, replaced)


def _is_left_over(entry: os.DirEntry[str], replaced: Collection[str]) -> bool:
    """Whether it is what a killed process of requant's left of the same model."""
    if not entry.name.endswith(SUFFIX):
        return False
    if not entry.is_dir(follow_symlinks=False):
        return entry.name.removesuffix(SUFFIX) in replaced
    left = Staging.held(Path(entry.path))
    if left is None:
        return False
    left.release()
    return True
