"""What every model card is written with: front matter, Markdown that strangers' words cannot break, and fingerprints.

A card is a README.md as the Hub reads it: YAML between two lines of `---`, then Markdown. Names, licences and reasons
come out of models: in a card they are data, as they are on a terminal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from requant.ir import Json, Tensor
from requant.printable import printable
from requant.sources import FileSlice

NAME: Final = "README.md"
#: Bytes of each of the pieces of a file that its fingerprint is made of, and how many pieces there are.
_PIECE: Final = 1 << 16
_PIECES: Final = 16
#: Text that needs no quotes in YAML, unless it is one of its words: of that, its library knows.
_BARE: Final = re.compile(r"[A-Za-z][\w ./+-]*(?<! )", re.ASCII)
#: What Markdown or HTML would take for more than text; `_` within a word they do not.
_SPECIAL: Final = re.compile(r"([\\`*{}\[\]<>#|~$&]|(?<![^\W_])_|_(?![^\W_]))")
#: What the fingerprints below are, in a sentence.
EXPLAINED: Final = "Fingerprint: SHA-256 of a file's size and of sixteen pieces of 64 KiB at equal distances."


def split_card(text: str) -> tuple[str, str]:
    """The YAML at the top of a card, empty if there is none, and what follows it."""
    lines, bare = text.splitlines(keepends=True), text.splitlines()
    if not bare or bare[0] != "---" or "---" not in bare[1:]:
        return "", text
    end = bare.index("---", 1)
    return "\n".join(bare[1:end]) + "\n", "".join(lines[end + 1 :])


def front_matter(values: Mapping[str, object]) -> str:
    """The top of a card, both lines of `---` included; empty without values.

    Each text stands on one line, so that none ends the front matter; halves of surrogate pairs become `?`.
    """
    if not values:
        return ""
    import yaml

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        whole = value.encode("utf-8", "replace").decode()
        return dumper.represent_scalar("tag:yaml.org,2002:str", whole, None if _BARE.fullmatch(whole) else '"')

    writer: Any = type("Dumper", (yaml.SafeDumper,), {})
    writer.add_representer(str, text)
    said = yaml.dump(dict(values), Dumper=writer, sort_keys=False, allow_unicode=True, width=float("inf"))
    return f"---\n{said}---\n"


def plain(text: str) -> str:
    """Foreign text on one line, as nothing but text.

    >>> print(plain("Q4_K | _a_ <c>"))
    Q4_K \\| \\_a\\_ \\<c\\>
    """
    return _SPECIAL.sub(r"\\\1", printable(text))


def code(text: str) -> str:
    """Foreign text on one line, as code that may stand in a table.

    >>> print(code("a|b`c"))
    ``a\\|b`c``
    """
    text = printable(text)
    fence = _fence(text, 1)
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{room}{text}{room}{fence}".replace("|", "\\|")


def block(text: str, language: str) -> list[str]:
    """Lines of a block of code, which nothing in the text ends."""
    fence = _fence(text, 3)
    return [f"{fence}{language}", text.rstrip(), fence]


def _fence(text: str, least: int) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; cells are Markdown already."""
    return [_row(heads), _row(["---"] * len(heads)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def fingerprint(path: Path) -> str:
    """What tells a file of weights from another in a moment: SHA-256 of its size and of sixteen pieces of 64 KiB, the
    first at its beginning, the last at its end, the others at equal distances."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for n in range(_PIECES):
            file.seek(max(0, size - _PIECE) * n // (_PIECES - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def weight_files(tensors: Iterable[Tensor]) -> tuple[Path, ...]:
    """The files that tensors lie in."""
    slices = (source for tensor in tensors for source in tensor.sources.values())
    return tuple(sorted({source.path for source in slices if isinstance(source, FileSlice)}))


def file_told(path: Path) -> dict[str, Json]:
    """A file's name, bytes and fingerprint; an SHA-256 by which the Hub's cache calls it is told."""
    told: dict[str, Json] = {"name": path.name, "bytes": path.stat().st_size, "fingerprint": fingerprint(path)}
    blob = path.resolve()
    if blob.parent.name == "blobs" and len(blob.name) == 64:
        told["sha256"] = blob.name
    return told


def files_table(files: Sequence[Mapping[str, Json]]) -> list[str]:
    """Files as `file_told` tells them."""
    known = any("sha256" in file for file in files)
    rows = (
        [
            code(str(file["name"])),
            f"{file['bytes']:,}",
            *([f"`{file['sha256']}`" if "sha256" in file else ""] if known else []),
            f"`{file['fingerprint']}`",
        ]
        for file in files
    )
    return table(["file", "bytes", *(["SHA-256"] if known else []), "fingerprint"], rows)
