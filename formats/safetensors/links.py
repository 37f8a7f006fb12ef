"""Which links among a model's files are followed.

What lies beside the weights is copied into the output as it is. A link out of the folder would bring along any file of
this machine that whoever made the folder cares to name, so only two kinds are followed: into the cache of the Hugging
Face Hub, which is made of links (`models--owner--name/snapshots/COMMIT/config.json` is one to
`models--owner--name/blobs/HASH`, https://huggingface.co/docs/huggingface_hub/guides/manage-cache), and to other files
of the folder itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from requant.errors import FormatError

#: The cache's files are named by their git or SHA-256 hashes; `download --local-dir` once made links to them as well.
_BLOB: Final = re.compile(r".*/models--[^/]+/blobs/(?:[0-9a-f]{40}|[0-9a-f]{64})", re.DOTALL)
#: What is written for people: a model is whole without it.
_PROSE: Final = re.compile(
    r"(?:readme|licen[cs]e|notice|copying|authors|use_policy|citation|changelog).*|.*\.(?:md|rst|pdf|png|jpe?g|gif|svg|webp)",
    re.IGNORECASE | re.DOTALL,
)


def way_out(path: Path, folder: Path) -> Path | None:
    """Where `path`, somewhere in `folder`, really lies, if that is elsewhere and not the Hub's cache."""
    try:
        real, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError) as error:
        raise FormatError(path, f"this link leads nowhere: {error}", hint="remove it") from None
    if home in real.parents or _BLOB.fullmatch(real.as_posix()):
        return None
    return real


def refuse_to_leave(path: Path, folder: Path) -> None:
    """Raises `FormatError` for a link that is not to be followed."""
    real = way_out(path, folder)
    if real is not None:
        raise FormatError(
            path,
            f"this is a link out of the model's folder, to {real}, and is not followed",
            hint="if that file belongs to the model, copy it into the folder in the place of the link",
        )


def is_prose(name: str) -> bool:
    """Whether a file of this name is for people only, so that it can be left out.

    >>> is_prose("LICENSE.txt"), is_prose("README.md"), is_prose("vocab.txt")
    (True, True, False)
    """
    return _PROSE.fullmatch(name) is not None
