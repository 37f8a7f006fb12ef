"""The page of what was written, or would be: read from a `receipt` or a `plan`, with its steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import PurePath
from typing import Any

from requant.cli.pages.content import Change, Column, Fact, Page, Table, Tensors
from requant.cli.pages.inspection import columns_of, short, type_table
from requant.cli.tables import count, size
from requant.losses import Loss, LossKind, grouped
from requant.operations.placed import place_of

#: Files and tensors that are named before the rest is only counted.
_SHOWN = 16


def receipt_page(document: Mapping[str, Any], where: str) -> Page:
    """document: a `receipt` or a `plan`, `steps` among its keys. where: the path of what is written."""
    steps = document["steps"]
    errors = document.get("relative_errors", {})
    written = "seconds" in document
    name = PurePath(where).name
    lead = [*([where] if where != name else []), *(_lead(document) if written else ["not written yet"])]
    return Page(
        "receipt" if written else "plan",
        name,
        " · ".join(lead),
        facts=[*_facts(document, steps, errors)],
        notes=[*_notes(document)],
        changes=[*changes(document["losses"])],
        tables=[_deeds(steps, errors), type_table(_types(steps), document["parameters"]), *_files(document["files"])],
        tensors=_tensors(steps, errors),
    )


def changes(losses: Iterable[Mapping[str, Any]]) -> Iterator[Change]:
    """What is lost, each reason once, as the terminal says it."""
    for group in grouped(Loss(LossKind(one["kind"]), one["subject"], one["detail"], one["bytes"]) for one in losses):
        amount = f"{count(group.count)}{f', {size(group.nbytes)}' if group.nbytes else ''}"
        yield Change(group.kind.value, group.pattern, amount, group.detail)


def _lead(document: Mapping[str, Any]) -> Iterator[str]:
    rate = document["bytes_read"] / max(document["seconds"], 1e-9)
    yield f"written in {document['seconds']:.1f} s"
    yield f"read {size(document['bytes_read'])}, {size(rate)}/s"


def _facts(document: Mapping[str, Any], steps: Sequence[Any], errors: Mapping[str, float]) -> Iterator[Fact]:
    nbytes = sum(file["bytes"] for file in document["files"])
    yield Fact("size", size(nbytes), f"{count(nbytes)} bytes")
    yield Fact("bits per weight", f"{document['bits_per_weight']:.3f}")
    yield Fact("parameters", short(document["parameters"]), count(document["parameters"]))
    copied = sum(step["fidelity"] != "round" for step in steps)
    yield Fact("tensors kept exactly", count(copied), f"of {count(len(steps))}")
    if errors:
        worst = max(errors, key=lambda name: _badness(errors[name]))
        yield Fact("worst relative error", f"{errors[worst]:.5f}", worst)


def _badness(error: float) -> float:
    """NaN is worse than any number."""
    return float("inf") if error != error else error


def _notes(document: Mapping[str, Any]) -> Iterator[str]:
    replaced = document.get("replaced_values", {})
    if replaced:
        names = ", ".join(list(replaced)[:_SHOWN])
        more = f" and {len(replaced) - _SHOWN} more" if len(replaced) > _SHOWN else ""
        yield f"{count(sum(replaced.values()))} values that were not finite were replaced, in {names}{more}"
    for hint in document["hints"]:
        yield f"hint: {hint}"
    for path in document["removed"]:
        yield f"{'removed' if 'seconds' in document else 'would be removed'}: {path}"


def deed(step: Mapping[str, Any]) -> str:
    """What is done to a tensor's numbers, in a word or two."""
    if not step["rounds_twice"]:
        return str(step["fidelity"])
    return "round beside codes" if step["keeps_codes"] else "round twice"


def _deeds(steps: Sequence[Mapping[str, Any]], errors: Mapping[str, float]) -> Table:
    """Shares of what was kept and of what was rounded."""
    total = sum(step["bytes"] for step in steps)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for step in steps:
        groups.setdefault(deed(step), []).append(step)
    rows = []
    for name, group in groups.items():
        nbytes = sum(step["bytes"] for step in group)
        known = [errors[step["to"]] for step in group if step["to"] in errors]
        worst = f"{max(known, key=_badness):.5f}" if known else ""
        row = [name, nbytes / total if total else 0.0, count(len(group)), size(nbytes), worst]
        rows.append(row if errors else row[:-1])
    heads = ["what was done", "share of bytes", "tensors", "size", *(["worst relative error"] if errors else [])]
    return Table("Kept and changed", heads, rows, right=frozenset({2, 3, 4}), share=1)


def _types(steps: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Shares of each type that is written, the largest first."""
    found: dict[str, dict[str, Any]] = {}
    for step in steps:
        share = found.setdefault(step["to_type"], {"tensors": 0, "parameters": 0, "bytes": 0})
        share["tensors"] += 1
        share["parameters"] += prod(step["shape"])
        share["bytes"] += step["bytes"]
    for share in found.values():
        share["bits_per_weight"] = 8 * share["bytes"] / max(1, share["parameters"])
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def _files(files: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    if len(files) < 2:
        return
    rows = [[file["name"], size(file["bytes"])] for file in files[:_SHOWN]]
    if len(files) > _SHOWN:
        rows.append([f"{len(files) - _SHOWN} more", size(sum(file["bytes"] for file in files[_SHOWN:]))])
    yield Table("Files", ["file", "size"], rows, right=frozenset({1}))


def _tensors(steps: Sequence[Mapping[str, Any]], errors: Mapping[str, float]) -> Tensors:
    columns = columns_of(steps, "to", "to_type")
    columns.insert(2, Column("from", "from", "choice", ["+".join(step["from_types"]) for step in steps]))
    columns.insert(4, Column("did", "what was done", "choice", [deed(step) for step in steps]))
    if errors:
        values = [errors.get(step["to"]) for step in steps]
        error = Column("error", "relative error", "number", values, digits=5, scale="error", absent="=")
        columns.insert(6, error)
    heeded = ["yes" if step["importance"] else None for step in steps]
    if any(heeded):
        columns.append(Column("importance", "importance matrix heeded", "text", heeded, aside=True))
    columns.append(Column("values", "values", "text", [step["values"] for step in steps], aside=True))
    places = [place_of(step["to"]) for step in steps]
    return Tensors(columns, [layer for layer, _ in places], [role for _, role in places])
