"""A GGUF in few lines: metadata with long arrays as digests, tensors as type, shape and digest of their bytes."""

import hashlib
import json
from pathlib import Path

import gguf


def digest(data: bytes) -> str:
    """Enough of SHA-256 to tell files apart by accident."""
    return hashlib.sha256(data).hexdigest()[:16]


def summary(path: Path) -> dict[str, dict[str, object]]:
    """The file at `path`, read by PyPI gguf."""
    reader = gguf.GGUFReader(path)
    metadata = {}
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            value = field.contents()
            if isinstance(value, list) and len(value) > 50:
                value = [len(value), digest(json.dumps(value).encode())]
            metadata[key] = [[kind.name for kind in field.types], value]
    tensors = {
        tensor.name: [tensor.tensor_type.name, [int(n) for n in tensor.shape], digest(tensor.data.tobytes())]
        for tensor in reader.tensors
    }
    return {"metadata": dict(sorted(metadata.items())), "tensors": dict(sorted(tensors.items()))}


def write(golden: dict[str, dict[str, object]], path: Path) -> None:
    """JSON with a line for each key and each tensor."""
    parts = []
    for part, items in golden.items():
        inner = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in items.items())
        parts.append(f" {json.dumps(part)}: {{\n{inner}\n }}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")
