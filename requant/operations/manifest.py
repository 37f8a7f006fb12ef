"""Manifests: a line of algorithm, digest and name for every checksum, as llama-gguf-hash prints and reads them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from requant.errors import FormatError
from requant.operations.hashing import ALGORITHMS, Checksum
from requant.printable import printable

#: The most secure first: what is checked where nobody says.
_SECURE: Final = ("sha256", "blake3", "sha1", "xxh3", "xxh64", "uuid")


@dataclass
class Manifest:
    """What was once written down of a model.

    digests: (algorithm, tensor; None for the model) -> digest; what is not seen of a tensor's name is escaped, as it is
    in lines. A model may have moved since: only the last part of its path counts.
    """

    path: Path
    digests: dict[tuple[str, str | None], str] = field(default_factory=dict)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Those it has digests of, the most secure first."""
        there = {algorithm for algorithm, _ in self.digests}
        return tuple(name for name in _SECURE if name in there)

    def verdict(self, checksum: Checksum) -> str:
        """`Ok`, `Mismatch`, or `Not Found`, in llama-gguf-hash's words."""
        written = self.digests.get((checksum.algorithm, _in_lines(checksum.tensor)))
        if written is None:
            return "Not Found"
        return "Ok" if written == checksum.digest else "Mismatch"

    def left(self, seen: Iterable[Checksum], algorithms: Iterable[str]) -> list[Checksum]:
        """What it has of tensors that the model no longer has."""
        known = {(one.algorithm, _in_lines(one.tensor)) for one in seen}
        asked = set(algorithms)
        return [
            Checksum(algorithm, digest, tensor)
            for (algorithm, tensor), digest in self.digests.items()
            if algorithm in asked and tensor is not None and (algorithm, tensor) not in known
        ]


def read_manifest(path: Path, model: str, text: str) -> Manifest:
    """What the manifest `text` says of the model whose file or folder is called `model`.

    Raises `FormatError` if it says nothing of it. Lines of other models and of other kinds are passed over.
    """
    found, model = Manifest(path), printable(model, None)
    for line in text.splitlines():
        words = line.split(None, 2)
        if len(words) != 3 or words[0] not in ALGORITHMS:
            continue
        algorithm, digest, name = words
        if (tensor := _tensor(printable(name.rstrip(), None), model)) is not None:
            # what a check printed is a manifest, too, with its verdicts
            found.digests.setdefault((algorithm, tensor or None), digest.lower())
    if not found.digests:
        raise FormatError(
            path,
            f"there is no checksum of {model}",
            hint=f"requant hash {model} > MANIFEST makes one; lines are `sha256  DIGEST  {model}:TENSOR`",
        )
    return found


def _in_lines(tensor: str | None) -> str | None:
    return None if tensor is None else printable(tensor, None)


def _tensor(name: str, model: str) -> str | None:
    """The tensor that `name` means; "" for the model itself, None for another model."""
    at = name.find(f"{model}:")
    if at == 0 or (at > 0 and name[at - 1] in "/\\"):
        return name[at + len(model) + 1 :].partition("  -  ")[0]
    own = name.partition("  -  ")[0]
    return "" if own == model or own.endswith((f"/{model}", f"\\{model}")) else None
