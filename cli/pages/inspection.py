"""The page of a model: what `inspect` tells, read from its document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import PurePath
from typing import Any, Final

from requant.cli.pages.content import Column, Entry, Fact, Page, Table, Tensors
from requant.cli.tables import count, size

#: Items of an array that are shown.
_SHOWN_ITEMS: Final = 6
#: Characters of a value on its line; longer ones are folded.
_LINE: Final = 120
#: Characters of a value at most.
_LONGEST: Final = 20_000


def inspection_page(document: Mapping[str, Any]) -> Page:
    """document: an `inspection` with all tensors."""
    said = [document["format"], document["architecture"] or "architecture not stated", document["file_type"]]
    return Page(
        "model",
        PurePath(document["path"]).name,
        " · ".join(filter(None, said)),
        facts=[*_facts(document)],
        notes=document["notices"],
        tables=[
            type_table(document["types"], document["parameters"]),
            *_widths(document["exl2_weights_by_bits"]),
            *_memory(document["memory"]),
        ],
        tensors=stored_tensors(document),
        lists=[
            (title, [*entries(document.get(key, {}))])
            for key, title in {
                "adapter": "Adapter",
                "projector": "Projector",
                "metadata": "Metadata",
                "config": "config.json",
            }.items()
        ],
    )


def stored_tensors(document: Mapping[str, Any]) -> Tensors:
    """The tensors of an `inspection`, with what their numbers are like where they were looked at."""
    rows = document["tensors"]
    columns = columns_of(rows, "name", "type")
    values = [row.get("values") or {} for row in rows]
    if any(values):
        columns[4:5] = [*_value_columns(values), replace(columns[4], aside=True)]
    histograms = [one.get("histogram") for one in values] if any(values) else []
    return Tensors(columns, [row["layer"] for row in rows], [row["role"] for row in rows], histograms=histograms)


def _value_columns(values: Sequence[Mapping[str, Any]]) -> Iterator[Column]:
    def of(key: str) -> list[Any]:
        return [one.get(key) for one in values]

    yield Column("std", "std", "number", of("std"), digits=4, scale="rank")
    yield Column("kurtosis", "kurtosis", "number", of("kurtosis"), digits=2, scale="rank")
    yield Column("outliers", "outliers", "count", of("outliers"), scale="rank")
    yield Column("min", "min", "number", of("min"), digits=3)
    yield Column("max", "max", "number", of("max"), digits=3)
    yield Column("mean", "mean", "number", of("mean"), digits=5, aside=True)
    yield Column("zeros", "zeros", "count", of("zeros"), aside=True)
    for key, title in (("nan", "NaN"), ("inf", "infinite")):
        yield Column(key, title, "count", of(key), aside=not any(of(key)))


def columns_of(rows: Sequence[Mapping[str, Any]], name: str, kind: str) -> list[Column]:
    """What every table of tensors begins with; `name` and `kind` are the keys of the rows that hold name and type."""
    shapes = [row["shape"] for row in rows]
    parameters = [prod(shape) for shape in shapes]
    nbytes = [row["bytes"] for row in rows]
    bits = [8 * taken / numbers if numbers else None for taken, numbers in zip(nbytes, parameters, strict=True)]
    return [
        Column("name", "tensor", "text", [row[name] for row in rows]),
        Column("shape", "shape", "shape", shapes),
        Column("type", "type", "choice", [row[kind] for row in rows]),
        Column("bits", "bits/weight", "number", bits, digits=3, scale="bits"),
        Column("parameters", "parameters", "count", parameters),
        Column("bytes", "bytes", "bytes", nbytes),
    ]


def type_table(types: Mapping[str, Mapping[str, Any]], parameters: int) -> Table:
    """Shares of each type."""
    rows = [
        [
            name,
            share["parameters"] / parameters if parameters else 0.0,
            count(share["tensors"]),
            count(share["parameters"]),
            f"{share['bits_per_weight']:.3f}",
            size(share["bytes"]),
        ]
        for name, share in types.items()
    ]
    heads = ["type", "share of parameters", "tensors", "parameters", "bits/weight", "size"]
    return Table("By type", heads, rows, right=frozenset({2, 3, 4, 5}), share=1)


def entries(values: Mapping[str, Any]) -> Iterator[Entry]:
    """Key-values, arrays cut short."""
    for key, value in values.items():
        text = in_short(value)
        yield Entry(key, text[:_LONGEST] + _left_out(text), len(text) > _LINE or "\n" in text)


def _left_out(text: str) -> str:
    return f"… ({len(text):,} characters)" if len(text) > _LONGEST else ""


def in_short(value: object) -> str:
    """A value as people read it; an array by its first items."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and len(value) > _SHOWN_ITEMS:
        items = ", ".join(json.dumps(item, ensure_ascii=False, default=list) for item in value[:_SHOWN_ITEMS])
        return f"[{items}, … {count(len(value))} items]"
    return json.dumps(value, ensure_ascii=False, default=list)


def _facts(document: Mapping[str, Any]) -> Iterator[Fact]:
    tied = "output tied to the embedding" if document["tied_output"] and document["layers"] else ""
    yield Fact("parameters", short(document["parameters"]), count(document["parameters"]))
    yield Fact("bits per weight", f"{document['bits_per_weight']:.3f}")
    yield Fact("size", size(document["file_bytes"]), f"{count(document['file_bytes'])} bytes")
    yield Fact("tensors", count(sum(share["tensors"] for share in document["types"].values())), tied)
    if document["layers"]:
        yield Fact("layers", count(len(document["layers"])))
    for speed in filter(None, [document["speed"]]):
        most = f"at {speed['bandwidth'] / 1e9:g} GB/s"
        yield Fact("tokens per second, at most", f"{speed['tokens_per_second_at_most']:.0f}", most)
    for memory in document["memory"][:1]:
        yield Fact("memory to run", size(memory["total"]), f"at {count(memory['context'])} tokens")


def short(number: int) -> str:
    """A count in the unit that keeps three digits, as models are called.

    >>> short(134_515_008), short(7_241_732_096), short(90)
    ('135 M', '7.24 B', '90')
    """
    if number < 1000:
        return str(number)
    digits, _, unit = size(number).partition(" ")
    return f"{digits} {({'kB': 'K', 'MB': 'M', 'GB': 'B', 'TB': 'T'})[unit]}"


def _memory(memory: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    if not memory:
        return
    smaller = [kind for kind in ("q8_0", "q4_0") if all(kind in one["kv_cache"] for one in memory)]
    heads = [
        "context",
        "weights",
        "KV cache (F16)",
        "buffers, about",
        "total",
        *(f"KV cache ({kind})" for kind in smaller),
    ]
    keys = ("weights", "kv_cache_f16", "compute_estimate", "total")
    rows = [
        [count(one["context"]), *(size(one[key]) for key in keys), *(size(one["kv_cache"][kind]) for kind in smaller)]
        for one in memory
    ]
    yield Table("Memory to run", heads, rows, right=frozenset(range(len(heads))))


def _widths(widths: Mapping[str, int]) -> Iterator[Table]:
    total = sum(widths.values())
    if total:
        rows = [[bits, weights / total, count(weights)] for bits, weights in widths.items()]
        yield Table("EXL2 codes", ["bits", "share", "parameters"], rows, right=frozenset({2}), share=1)
