"""`requant types`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli.saying import say_document
from requant.cli.tables import table
from requant.cli.terminal import say
from requant.errors import Error, PlanError
from requant.nearest import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from requant.cli.documents.tables import RecipeRow, Speed, TypeRow
    from requant.encodings import Blocks, Dense, Encoding

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
    """List every tensor type of GGUF: bits per weight, block, what it needs, and how exact and fast it is.

    Then the recipes that --to takes, with the size and the perplexity that llama.cpp publishes of each.
    """
    import numpy as np

    from requant.encodings import BF16, BLOCKS, DENSE, F16, F32

    samples: dict[str, NDArray[np.float32]] = {}
    if measure or tensor:
        samples["N(0,1)"] = np.random.default_rng(0).standard_normal(_SHAPE).astype(np.float32)
    if tensor:
        samples[tensor.rpartition(":")[2]] = tensor_values(tensor)
    measured: list[Dense | Blocks] = [F32, F16, BF16, *BLOCKS.values()]
    rows = [_row(encoding, samples) for encoding in measured]
    rows += [_row(DENSE[name], {}, copied_only=True) for name in _PASS_THROUGH]
    if as_json:
        say_document("types", {"types": rows, "recipes": _recipes()})
    else:
        say(f"{_table(rows)}\n\n{_recipe_table(_recipes())}")


def _recipes() -> list[RecipeRow]:
    from requant.recipes import RECIPES
    from requant.recipes.notes import NOTES

    return [
        {
            "recipe": name,
            "main_type": main.label if (main := RECIPES[name].main) is not None else None,
            "bits_per_weight": note.bits,
            "of_a_model": note.measured,
            "perplexity_rise": note.perplexity,
        }
        for name, note in NOTES.items()
    ]


def _recipe_table(rows: Sequence[RecipeRow]) -> str:
    """For people: the figures that llama.cpp publishes of each."""
    heads = ["recipe", "most tensors", "bits per weight", "perplexity"]
    body = []
    for row in rows:
        bits = f"{row['bits_per_weight']:.2f}" + ("" if row["of_a_model"] else " (type)")
        rise = row["perplexity_rise"]
        body.append([row["recipe"], row["main_type"] or "", bits, "" if rise is None else f"{rise:+.4f}"])
    told = (
        "Of whole models (Llama-3.1-8B) and their rise in perplexity (Llama-3-8B), as llama.cpp's tools/quantize says."
    )
    return f"{table([heads, *body], right=frozenset({2, 3}))}\n{told}"


def _row(encoding: Blocks | Dense, samples: Mapping[str, NDArray[np.float32]], *, copied_only: bool = False) -> TypeRow:
    from requant.encodings import Blocks, Dense

    blocks = encoding if isinstance(encoding, Blocks) else None
    return {
        "type": encoding.label,
        "bits_per_weight": encoding.dtype.bits if isinstance(encoding, Dense) else encoding.bits_per_weight,
        "block_values": blocks.values if blocks else None,
        "block_bytes": blocks.nbytes if blocks else None,
        "needs_importance": blocks is not None and blocks.needs_importance,
        "copied_only": copied_only,
        "measured": [_measured(encoding, name, values) for name, values in samples.items()],
    }


def _table(rows: Sequence[TypeRow]) -> str:
    """For people: errors on each tensor, the speeds once."""
    names = [speed["values"] for speed in rows[0]["measured"]]
    errors = [f"error on {name}" for name in names]
    speeds = ["encode M/s", "decode M/s"] if names else []
    heads = ["type", "bits per weight", "block", *errors[:1], *speeds, *errors[1:], "note"]
    body = [[row["type"], *_figures(row, len(names)), _note(row)] for row in rows]
    return table([heads, *body], right=frozenset(range(1, len(heads) - 1)))


def _figures(row: TypeRow, samples: int) -> list[str]:
    """What stands between a type's name and what is to be known of it."""
    block = f"{row['block_values']} in {row['block_bytes']} bytes" if row["block_values"] else ""
    if not row["measured"]:
        return [_cell(row["bits_per_weight"]), block, *[""] * (samples + 2 if samples else 0)]
    errors = [_cell(speed["relative_error"]) for speed in row["measured"]]
    first = row["measured"][0]
    rates = [first["encoded_per_second"], first["decoded_per_second"]]
    speeds = ["-" if rate is None else _cell(rate / 1e6) for rate in rates]
    return [_cell(row["bits_per_weight"]), block, errors[0], *speeds, *errors[1:]]


def _note(row: TypeRow) -> str:
    return "copied only" if row["copied_only"] else "needs an importance matrix" if row["needs_importance"] else ""


def _measured(encoding: Encoding, name: str, values: NDArray[np.float32]) -> Speed:
    """Relative error, and weights a second to encode and decode on one thread (best of three, compiled)."""
    import numpy as np

    from requant.codecs import codec_for
    from requant.encodings import Blocks

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
        return {"values": name, "relative_error": None, "encoded_per_second": None, "decoded_per_second": None}
    return {
        "values": name,
        "relative_error": float(np.linalg.norm(again - values) / np.linalg.norm(values)),
        "encoded_per_second": values.size / min(encode[1:]),
        "decoded_per_second": values.size / min(decode[1:]),
    }


def tensor_values(reference: str) -> NDArray[np.float32]:
    """The tensor `PATH:NAME` as float32 [rows, columns]; raises `PlanError` where there is none."""
    from requant import formats
    from requant.parts import read_values

    path, _, name = reference.rpartition(":")
    if not path:
        raise PlanError(f"{reference!r} should be PATH:NAME")
    checkpoint = formats.open(Path(path))
    found = next((tensor for tensor in checkpoint.tensors if tensor.name == name), None)
    if found is None:
        raise PlanError(
            f"{path}: there is no tensor {name!r}",
            hint=did_you_mean(name, checkpoint, "requant inspect --tensors . lists them"),
        )
    return read_values(found)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
