"""The page of two models beside each other: read from a `diff`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import PurePath
from typing import Any, Final

from requant.cli.pages.content import Column, Entry, Fact, Page, Table, Tensors
from requant.cli.pages.inspection import in_short, short
from requant.cli.tables import count, size

#: Characters of a value of a key.
_LONGEST: Final = 160
#: What no format but one can hold is told apart: it is no difference.
_HELD: Final = {"only a can hold it": "A", "only b can hold it": "B"}
_NAMES: Final = {
    "gguf": "in a GGUF's keys and names",
    "hf": "in a folder's keys and names",
    "stored": "each in its own names",
}


def differences_page(document: Mapping[str, Any]) -> Page:
    """document: a `diff`."""
    a, b = document["a"], document["b"]
    return Page(
        "diff",
        f"{PurePath(a['path']).name} and {PurePath(b['path']).name}",
        f"A: {a['path']} · B: {b['path']} · {_NAMES[document['names']]}",
        facts=[*_facts(document)],
        verdict=(document["equal"], "equal" if document["equal"] else "different"),
        notes=document["notes"],
        tables=[_sides(a, b), *_settings(document), *_sums(document), *_files(document)],
        tensors=_tensors(document["tensors"]),
        lists=[("Tokenizers", [*_tokenizers(document["tokenizer"])])],
    )


def _facts(document: Mapping[str, Any]) -> Iterator[Fact]:
    tensors = document["tensors"]
    different = sum(bool(row["differs"]) for row in tensors)
    yield Fact("tensors that differ", count(different), f"of {count(len(tensors))}")
    settings = sum(row["status"] not in _HELD for row in document["settings"])
    yield Fact("keys that differ", count(settings))
    yield Fact("tokens that differ", count(document["tokenizer"]["differing_tokens"]))
    a, b = document["a"], document["b"]
    yield Fact("size", f"{size(a['file_bytes'])} → {size(b['file_bytes'])}", _ratio(b["file_bytes"], a["file_bytes"]))
    yield Fact("bits per weight", f"{a['bits_per_weight']:.3f} → {b['bits_per_weight']:.3f}")
    if "sums" in document:
        total = document["sums"]["total"]
        yield Fact("relative error", f"{float(total['relative_error']):.5f}", "of all numbers together")
        yield Fact("signal to noise", f"{float(total['snr_db']):.1f} dB", f"cosine {float(total['cosine']):.6f}")


def _ratio(b: int, a: int) -> str:
    return f"{100 * b / a:.1f} %" if a else ""


def _sides(a: Mapping[str, Any], b: Mapping[str, Any]) -> Table:
    rows = [
        ["format", a["format"], b["format"]],
        ["architecture", a["architecture"], b["architecture"]],
        ["tensors", count(a["tensors"]), count(b["tensors"])],
        ["parameters", short(a["parameters"]), short(b["parameters"])],
        ["size", size(a["file_bytes"]), size(b["file_bytes"])],
        ["bits/weight", f"{a['bits_per_weight']:.3f}", f"{b['bits_per_weight']:.3f}"],
        [
            "types",
            *(", ".join(f"{share['tensors']} x {name}" for name, share in side["types"].items()) for side in (a, b)),
        ],
    ]
    return Table("Models", ["", "A", "B"], rows)


def _settings(document: Mapping[str, Any]) -> Iterator[Table]:
    rows = document["settings"]
    different = [
        [row["key"], _value(row, "a"), _value(row, "b"), row["detail"]] for row in rows if row["status"] not in _HELD
    ]
    if different:
        yield Table("Keys that differ", ["key", "A", "B", "why"], different)
    held = [
        [row["key"], _HELD[row["status"]], _value(row, _HELD[row["status"]].lower())]
        for row in rows
        if row["status"] in _HELD
    ]
    left_out = [[one["name"], one["side"].upper(), one["reason"]] for one in document["left_out"]]
    if held or left_out:
        yield Table("What only one format can hold", ["what", "in", "value, or why"], [*held, *left_out])


def _value(row: Mapping[str, Any], side: str) -> str:
    missing = {"a": "only b", "b": "only a"}
    if row["status"] == missing[side]:
        return "none"
    text = in_short(row[side])
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({count(len(text))} characters)"


def _sums(document: Mapping[str, Any]) -> Iterator[Table]:
    """Of roles and layers, the worst first."""
    for name in ("roles", "layers") if "sums" in document else ():
        rows = [
            [
                group,
                f"{float(numbers['relative_error']):.5f}",
                f"{float(numbers['largest_error']):.4g}",
                f"{float(numbers['cosine']):.6f}",
                f"{float(numbers['snr_db']):.1f}",
                count(numbers["sign_flips"]),
            ]
            for group, numbers in document["sums"][name].items()
        ]
        heads = [name, "relative error", "largest", "cosine", "SNR (dB)", "sign flips"]
        if rows:
            yield Table(f"Numbers by {name[:-1]}, worst first", heads, rows, right=frozenset(range(1, 6)))


def _files(document: Mapping[str, Any]) -> Iterator[Table]:
    if document["files"]:
        yield Table("Other files", ["file", ""], [[file["name"], file["status"]] for file in document["files"]])


def _tokenizers(found: Mapping[str, Any]) -> Iterator[Entry]:
    if found["same_files"]:
        yield Entry("files", "the same")
        return
    if found["unread"]:
        yield Entry("not compared", found["unread"])
    for name in ("tokens", "merges"):
        yield Entry(
            name, " and ".join("none" if n is None else count(n) for n in (found[f"{name}_a"], found[f"{name}_b"]))
        )
    tokens = [f"{in_short(one['text'])}: {_id(one['a'])} and {_id(one['b'])}" for one in found["tokens"]]
    yield from _list(f"tokens of other ids ({count(found['differing_tokens'])})", tokens)
    yield from _list(
        "tokens of another type", [f"{in_short(one['text'])}: {one['a']} and {one['b']}" for one in found["retyped"]]
    )
    if found["rescored"]:
        yield Entry("tokens of another score", count(found["rescored"]))
    for side in "ab":
        yield from _list(f"merges only in {side.upper()}", found[f"merges_only_{side}"])
    if found["merges_moved"]:
        yield Entry("merges that both have", "in another order")
    for row in found["settings"]:
        why = f" ({row['detail']})" if row["detail"] else ""
        yield Entry(row["key"], f"{_value(row, 'a')} and {_value(row, 'b')}{why}")
    for template in found["templates"]:
        yield Entry(f"chat template {template['name']}".strip(), "\n".join(template["diff"]), long=True)
    yield from _list("no place in a GGUF", found["lost"])


def _id(number: int | None) -> str:
    return "none" if number is None else str(number)


def _list(name: str, lines: Sequence[str]) -> Iterator[Entry]:
    if lines:
        yield Entry(name, "\n".join(lines), len(lines) > 1)


def _tensors(rows: Sequence[Mapping[str, Any]]) -> Tensors:
    """Bits and bytes are those of B, or of A where only A has the tensor."""
    either = [row["b"] or row["a"] for row in rows]
    columns = [
        Column("name", "tensor", "text", [row["name"] for row in rows]),
        Column("differs", "differs in", "choice", [", ".join(row["differs"]) or "nothing" for row in rows]),
        Column("shape", "shape", "shape", [one["shape"] for one in either]),
        Column("from", "A", "choice", [row["a"]["type"] if row["a"] else "none" for row in rows]),
        Column("type", "B", "choice", [row["b"]["type"] if row["b"] else "none" for row in rows]),
        Column("bits", "bits/weight", "number", [one["bits_per_weight"] for one in either], digits=3, scale="bits"),
    ]
    numbers = [row.get("numbers") or {} for row in rows]

    def of(key: str) -> list[Any]:
        return [one.get(key) for one in numbers]

    if any(numbers):
        columns += [
            Column("error", "relative error", "number", of("relative_error"), digits=5, scale="error"),
            Column("largest", "largest error", "number", of("largest_error"), digits=4),
            Column("cosine", "cosine", "number", of("cosine"), digits=6),
            Column("snr", "SNR (dB)", "number", of("snr_db"), digits=1),
            Column("flips", "sign flips", "count", of("sign_flips")),
            Column("changed", "values changed", "count", of("changed"), aside=True),
            Column("lost_a", "not finite in A alone", "count", of("not_finite_a"), aside=True),
            Column("lost_b", "not finite in B alone", "count", of("not_finite_b"), aside=True),
        ]
    columns += [
        Column("parameters", "parameters", "count", [prod(one["shape"]) for one in either], aside=any(numbers)),
        Column("bytes", "bytes", "bytes", [one["bytes"] for one in either]),
        Column("shape_a", "shape in A", "shape", [row["a"] and row["a"]["shape"] for row in rows], aside=True),
        Column("values_a", "A is", "text", [row["a"] and row["a"]["values"] for row in rows], aside=True),
        Column("values_b", "B is", "text", [row["b"] and row["b"]["values"] for row in rows], aside=True),
    ]
    order = "error" if any(numbers) else ""
    return Tensors(columns, [row["layer"] for row in rows], [row["role"] for row in rows], order)
