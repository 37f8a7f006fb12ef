"""A file in which a calibration's sums are kept, so that one that was ended can go on; engines say what is in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from requant.errors import PlanError

_FILE: Final = "found.npz"

#: What a calibration is of, by what it is called in an error: all that changes what is found.
Key = Mapping[str, str]
Arrays = Mapping[str, Any]


def read_kept(folder: Path, key: Key) -> tuple[dict[str, Any], Arrays]:
    """What was said of the sums, and they themselves; nothing where nothing is kept.

    Raises `PlanError` for a damaged file and for that of another calibration.
    """
    path = folder / _FILE
    if not path.exists():
        return {}, {}
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        said = dict(json.loads(found.pop("said").tobytes()))
        other = [what for what, value in key.items() if said["key"].get(what) != value]
    except Exception as error:  # a zip file can be damaged in many ways
        raise PlanError(f"{path} is damaged: {error}", hint=f"remove {folder} to begin anew") from error
    if other:
        raise PlanError(
            f"{folder} holds a calibration of another {' and another '.join(other)}",
            hint="remove it, or calibrate as it was begun",
        )
    return said, found


def keep(folder: Path, key: Key, said: Mapping[str, object], arrays: Arrays) -> None:
    """Whole or not at all."""
    text = json.dumps({**said, "key": dict(key)}).encode()
    partial = folder / f"partial-{_FILE}"
    np.savez(partial, said=np.frombuffer(text, np.uint8), **arrays)
    partial.replace(folder / _FILE)
