"""What to do about a part that is not there: only where something says that a file is missing is it looked for."""

from __future__ import annotations

import re
from typing import Final

from requant.ir import Checkpoint, Tensor

_SHARD: Final = re.compile(r".*-(\d{5})-of-(\d{5})\.\w+")
#: What the reader of a folder says of an index that does not fit its files.
_STALE: Final = "does not count"


def missing_hint(checkpoint: Checkpoint[Tensor]) -> str:
    """The next move where a tensor or a part of one is missing; "" where nothing says what became of it.

    A folder whose shards or index are incomplete is refused when it is read. What is left is one shard that was opened
    by itself, and an index that names tensors which its files do not have.
    """
    path = checkpoint.path
    shard = _SHARD.fullmatch(path.name) if path.is_file() else None
    if shard and int(shard[2]) > 1:
        return f"this file is shard {int(shard[1])} of {int(shard[2])}: open the folder, or its index"
    stale = next((notice for notice in checkpoint.notices if _STALE in notice), None)
    return f"{stale}: if the index is right, fetch the files that it names again" if stale else ""
