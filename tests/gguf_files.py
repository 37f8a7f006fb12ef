"""GGUF files made and broken for tests."""

import re
from pathlib import Path

from requant.formats.gguf import Gguf
from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.layout import LayoutOptions
from requant.sources import Memory, read


def checkpoint(metadata=None, tensors=()):
    """A checkpoint in memory; tensors are (name, shape, encoding), filled with a pattern."""
    return Checkpoint(
        naming=Naming.GGML,
        architecture="",
        metadata=metadata or {},
        tensors=tuple(filled(*tensor) for tensor in tensors),
    )


def filled(name, shape, encoding):
    nbytes = encoding.parts(shape)["data"].nbytes
    pattern = (name.encode("utf-8", "surrogateescape") + b"!") * (nbytes // (len(name) + 1) + 1)
    return Tensor(name, shape, encoding, {"data": Memory(pattern[:nbytes])})


def save(checkpoint, destination, **options):
    """Write a checkpoint as its layout says; the paths of the files."""
    layout = Gguf().layout(checkpoint, destination, LayoutOptions(**options))
    paths = []
    for file in layout.files:
        data = bytearray(file.nbytes)
        data[: len(file.head)] = file.head
        for tensor in checkpoint.tensors:
            if (offset := file.slots.get((tensor.name, "data"))) is not None:
                content = read(tensor.sources["data"]).tobytes()
                data[offset : offset + len(content)] = content
        paths.append(layout.root / file.name)
        paths[-1].write_bytes(data)
    return paths


def contents(checkpoint):
    """Everything a checkpoint says, and every tensor byte, as plain comparable values."""
    return (
        {key: (typed.kind, plain(typed.value)) for key, typed in checkpoint.metadata.items()},
        [(t.name, t.shape, t.encoding, read(t.sources["data"]).tobytes()) for t in checkpoint.tensors],
    )


def plain(value):
    """Lists for sequences, and floats by their text so that a NaN equals itself."""
    if isinstance(value, float):
        return repr(value)
    return value if isinstance(value, str | bool | int) else [plain(item) for item in value]


def from_hex(path: Path) -> bytes:
    """The bytes of an annotated hex file: what follows a # is a comment."""
    return bytes.fromhex(re.sub(r"#.*", "", path.read_text()))


ARCHITECTURE = {"general.architecture": Typed("str", "llama")}
