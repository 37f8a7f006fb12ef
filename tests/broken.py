"""Broken files on purpose, from the texts in fixtures/broken (their README.md says how to read them)."""

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "fixtures" / "broken"


@dataclass(frozen=True)
class Case:
    """One text: what is broken, what the reference reader says ("accepts", "refuses"), and a part of our message."""

    name: str
    rule: str
    reference: str
    error: str | None
    body: tuple[str, ...]

    @property
    def huge(self) -> bool:
        """Whether the file takes many megabytes."""
        return self.name.startswith("bomb-")

    def content(self) -> bytes:
        """The file."""
        sections = {"": bytearray()}
        target = sections[""]
        for line in self.body:
            if line in ("header", "data"):
                target = sections.setdefault(line, bytearray())
            else:
                target += _bytes(line)
        header = sections.get("header")
        length = b"" if header is None else len(header).to_bytes(8, "little")
        return length + b"".join(sections.values())


def cases(folder: str) -> list[Case]:
    """All cases of one format."""
    return [_case(path) for path in sorted((FOLDER / folder).glob("*.txt"))]


def _case(path: Path) -> Case:
    lines = path.read_text().splitlines()
    about = dict(re.fullmatch(r"# (\w+): (.*)", line).groups() for line in lines if line.startswith("# "))
    body = tuple(line for line in lines if line and not line.startswith("# "))
    error = None if about["error"] == "none" else about["error"]
    return Case(path.stem, about["rule"], about["reference"], error, body)


def _bytes(line: str) -> bytes:
    word, _, rest = line.partition(" ")
    match word:
        case "u64":
            return int(rest).to_bytes(8, "little")
        case "hex":
            return bytes.fromhex(rest.partition("#")[0])
        case "text":
            return rest.encode()
        case "zeros":
            return bytes(int(rest))
        case "spaces":
            return b" " * int(rest)
        case "repeat":
            count, _, text = rest.partition(" ")
            return text.encode() * int(count)
        case "count":
            count, _, text = rest.partition(" ")
            return "".join(text % i for i in range(int(count))).encode()
    raise ValueError(line)
