"""Checksums of tensors and of whole models, as llama-gguf-hash makes them: of the bytes of tensors, in file order.

Whatever else a file says, its metadata above all, is no part of them. `uuid` is RFC 9562's version 5 in llama.cpp's
namespace (examples/gguf-hash): it names a model, and there is none of a single tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

import numpy as np

from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor
from requant.sources import Bytes, check_unchanged

#: What `uuid` begins with: the UUID version 5 of the address en.wikipedia.org/wiki/Llama.cpp.
NAMESPACE: Final = UUID("ef001206-dadc-5f6d-a15f-3359e577d4e5")
#: Bytes that are read at once.
RUN: Final = 8 << 20


class Hasher(Protocol):
    """What hashlib, xxhash and blake3 have in common."""

    def update(self, data: Any, /) -> object:
        """Take in more bytes."""
        ...

    def hexdigest(self) -> str:
        """What they come to, in hexadecimal digits."""
        ...


class _Named:
    """`uuid`: sixteen of the bytes of a SHA-1."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False)

    def update(self, data: Any, /) -> None:
        """Take in more bytes."""
        self._hasher.update(data)

    def hexdigest(self) -> str:
        """The UUID as it is written."""
        return str(UUID(bytes=self._hasher.digest()[:16], version=5))


def _of_package(name: str, make: Callable[[Any], Hasher]) -> Callable[[], Hasher]:
    """A hash of a package that is no dependency of ours."""

    def start() -> Hasher:
        import importlib

        try:
            package = importlib.import_module(name)
        except ImportError:
            raise PlanError(
                f"such checksums need the package {name}",
                hint="pip install 'requant[hash]', or choose --sha256",
            ) from None
        return make(package)

    return start


#: algorithm -> what makes its state, in the order in which llama-gguf-hash prints them.
ALGORITHMS: Final[Mapping[str, Callable[[], Hasher]]] = {
    "xxh64": _of_package("xxhash", lambda package: package.xxh64()),
    "xxh3": _of_package("xxhash", lambda package: package.xxh3_64()),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "blake3": _of_package("blake3", lambda package: package.blake3()),
    "uuid": _Named,
}


@dataclass(frozen=True, slots=True)
class Checksum:
    """One line of a manifest. tensor: None for the whole model."""

    algorithm: str
    digest: str
    tensor: str | None


def checksums(
    source: Checkpoint[Tensor],
    algorithms: Sequence[str],
    *,
    layers: bool = True,
    told: Callable[[int], object] = lambda count: None,
) -> Iterator[Checksum]:
    """Those of every tensor in file order (`layers`), then those of the model.

    Each byte is read once, a run at a time, and given to all hashers side by side; `told` hears how many bytes are
    done. Raises `FormatError` for a file that changes meanwhile.
    """
    models = {name: ALGORITHMS[name]() for name in algorithms}
    buffer = np.empty(RUN, np.uint8)
    with ThreadPoolExecutor(max_workers=2 * len(models)) as pool:
        for tensor in source.tensors:
            own = {name: ALGORITHMS[name]() for name in algorithms if layers and name != "uuid"}
            hashers = [*models.values(), *own.values()]
            for run in _runs(tensor, buffer):
                list(pool.map(lambda hasher, run=run: hasher.update(run), hashers))
                told(run.size)
            for name, hasher in own.items():
                yield Checksum(name, hasher.hexdigest(), tensor.name)
    check_unchanged(source.opened)
    for name, hasher in models.items():
        yield Checksum(name, hasher.hexdigest(), None)


def _runs(tensor: Tensor, buffer: Bytes) -> Iterator[Bytes]:
    """The bytes of all parts of a tensor, at most as many at once as `buffer` holds."""
    for part in tensor.sources.values():
        for start in range(0, part.nbytes, buffer.size):
            run = buffer[: min(buffer.size, part.nbytes - start)]
            part.read_into(start, run)
            yield run
