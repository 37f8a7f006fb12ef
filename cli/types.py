"""`requant types`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import click
import numpy as np
from numpy.typing import NDArray

from requant import formats
from requant.cli.tables import json_text, table
from requant.cli.terminal import say
from requant.codecs import codec_for
from requant.encodings import BF16, BLOCKS, DENSE, F16, F32, Blocks, Dense, Encoding
from requant.errors import Error, PlanError
from requant.parts import read_values

_EXAMPLES: Final = """\b
Examples:
  requant types
  requant types --measure
  requant types --measure --tensor ./MiniLM:encoder.layer.0.output.dense.weight
"""

#: What is measured: enough rows for a steady figure, few enough for a second a type.
_SHAPE: Final = (512, 2048)
_PASS_THROUGH: Final = ("F64", "I8", "I16", "I32", "I64")


@click.command(epilog=_EXAMPLES)
@click.option("--measure", is_flag=True, help="Encode N(0,1) values in every type: relative error and speed here.")
@click.option("--tensor", metavar="PATH:NAME", help="Measure on this tensor of a model as well.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def types(measure: bool, tensor: str | None, as_json: bool) -> None:
    """List every tensor type of GGUF: bits per weight, block, what it needs, and how exact and fast it is."""
    samples: dict[str, NDArray[np.float32]] = {}
    if measure or tensor:
        samples["N(0,1)"] = np.random.default_rng(0).standard_normal(_SHAPE).astype(np.float32)
    if tensor:
        samples[tensor.rpartition(":")[2]] = tensor_values(tensor)
    measured: list[Dense | Blocks] = [F32, F16, BF16, *BLOCKS.values()]
    rows = [_row(encoding, samples) for encoding in measured]
    rows += [{"type": name, "bits per weight": DENSE[name].dtype.bits, "note": "copied only"} for name in _PASS_THROUGH]
    if as_json:
        say(json_text(rows))
        return
    heads = [*dict.fromkeys(key for row in rows for key in row if key != "note"), "note"]
    body = [[_cell(row.get(head, "")) for head in heads] for row in rows]
    say(table([heads, *body], right=frozenset(range(1, len(heads) - 1))))


def _row(encoding: Blocks | Dense, samples: dict[str, NDArray[np.float32]]) -> dict[str, object]:
    row: dict[str, object] = {"type": encoding.label}
    if isinstance(encoding, Blocks):
        row["bits per weight"] = encoding.bits_per_weight
        row["block"] = f"{encoding.values} in {encoding.nbytes} bytes"
    else:
        row["bits per weight"] = encoding.dtype.bits
    for name, values in samples.items():
        error, encode, decode = _measured(encoding, values)
        row[f"error on {name}"] = error
        row.setdefault("encode M/s", encode)
        row.setdefault("decode M/s", decode)
    if isinstance(encoding, Blocks) and encoding.needs_importance:
        row["note"] = "needs an importance matrix"
    return row


def _measured(encoding: Encoding, values: NDArray[np.float32]) -> tuple[object, object, object]:
    """Relative error, and million weights a second to encode and decode on one thread (best of three, compiled)."""
    codec = codec_for(encoding)
    rows, importance = len(values), None
    if isinstance(encoding, Blocks) and encoding.needs_importance:
        importance = np.ones(values.shape[1], np.float32)
    try:
        parts = {
            name: np.zeros(part.nbytes, np.uint8).view(part.dtype.numpy).reshape(rows, -1)
            for name, part in encoding.parts(values.shape).items()
        }
        again = np.empty_like(values)
        encode, decode = [], []
        for _ in range(4):  # the first compiles
            start = time.perf_counter()
            codec.encode(values, parts, 0, importance)
            middle = time.perf_counter()
            codec.decode(parts, again)
            encode.append(middle - start)
            decode.append(time.perf_counter() - middle)
    except Error:
        return "-", "-", "-"
    error = float(np.linalg.norm(again - values) / np.linalg.norm(values))
    return error, values.size / min(encode[1:]) / 1e6, values.size / min(decode[1:]) / 1e6


def tensor_values(reference: str) -> NDArray[np.float32]:
    """The tensor `PATH:NAME` as float32 [rows, columns]; raises `PlanError` where there is none."""
    path, _, name = reference.rpartition(":")
    if not path:
        raise PlanError(f"{reference!r} should be PATH:NAME")
    checkpoint = formats.open(Path(path))
    found = next((tensor for tensor in checkpoint.tensors if tensor.name == name), None)
    if found is None:
        raise PlanError(f"{path}: there is no tensor {name!r}", hint="requant inspect --tensors . lists them")
    return read_values(found)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
