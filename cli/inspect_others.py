"""What `requant inspect` says of what is no model: an importance matrix, or a folder with several models in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from requant.cli.saying import say_document
from requant.cli.tables import count, size, table
from requant.cli.terminal import say, warning, width
from requant.errors import FormatError
from requant.inspection.recognized import is_imatrix
from requant.ir import Json
from requant.losses import pattern_of
from requant.operations.inspect_folder import models_in
from requant.printable import printable

if TYPE_CHECKING:
    from requant.importance import Importance
    from requant.inspection.imatrix import Column, Coverage, EntryFacts

#: Data sets, and names of tensors, that are shown.
_SHOWN: Final = 8


def inspect_folder(folder: Path, *, as_json: bool) -> None:
    """A line for each model; raises `FormatError` where there is none."""
    found = list(models_in(folder))
    if not found:
        raise FormatError(
            folder, "no model, and none inside", hint="name a model's file, or the folder with its config.json"
        )
    if as_json:
        say_document("inspections", {"path": str(folder), "models": [one.to_json() for one in found]})
        return
    rows = [["model", "format", "architecture", "parameters", "bits/weight", "bytes", "file type"]]
    for one in found:
        name, told = str(one.path.relative_to(folder)), one.report
        if told is None:
            rows.append([name, "", "", "", "", "", one.error])
            continue
        total = told.total
        kind = "importance matrix" if is_imatrix(told.checkpoint) else told.checkpoint.architecture
        figures = [count(total.weights), f"{total.bits_per_weight:.3f}", size(told.file_bytes)]
        rows.append([name, told.format, kind, *figures, told.file_type or ""])
    say(table(rows, right=frozenset({3, 4, 5}), width=width()))


def importance_told(path: Path, against: Path | None) -> tuple[dict[str, Json], str]:
    """An importance matrix for a document and for people; against: a model that it should cover."""
    from requant.formats import opened
    from requant.formats.imatrix import read_imatrix
    from requant.inspection.imatrix import coverage, entries_of

    importance = read_imatrix(path)
    entries = entries_of(importance)
    covered = None if against is None else coverage(importance, opened(against)[1])
    document: dict[str, Json] = {
        "datasets": list(importance.datasets),
        "chunks": importance.chunks,
        "chunk_tokens": importance.chunk_tokens,
        "entries": [one.to_json() for one in entries],
        "coverage": None if covered is None else covered.to_json(),
    }
    return document, _imatrix_text(path, importance, entries, covered)


def _imatrix_text(path: Path, importance: Importance, entries: Sequence[EntryFacts], covered: Coverage | None) -> str:
    length = f" of {importance.chunk_tokens} tokens" if importance.chunk_tokens else ""
    lines = [
        f"{printable(str(path), None)}  (importance matrix)",
        f"  entries          {len(entries)}",
        f"  chunks           {count(importance.chunks)}{length}"
        if importance.chunks
        else "  chunks           not stated",
        f"  measured on      {_few([printable(name) for name in importance.datasets]) or 'not stated'}",
    ]
    lines += [f"  {warning('note')}             {note}" for note in _notes(entries)]
    lines += _coverage_text(covered) if covered is not None else []
    rows = [["entry", "columns", "matrices", "unreached", "silent", "tokens", "largest"]]
    for one in entries:
        sizes = [count(one.columns), count(one.matrices), count(one.unreached), count(one.silent), count(one.tokens)]
        rows.append([one.name, *sizes, ", ".join(_column(top, one) for top in one.top[:1])])
    return "\n".join(lines) + "\n\n" + table(rows, right=frozenset(range(1, 6)), width=width())


def _column(top: Column, entry: EntryFacts) -> str:
    where = f"{top.matrix}:{top.column}" if entry.matrices > 1 else str(top.column)
    return f"{where} ({100 * top.share:.1f} %)"


def _notes(entries: Sequence[EntryFacts]) -> list[str]:
    """What is wrong with entries, those of a kind in a line."""
    groups: dict[tuple[str, str], int] = {}
    for one in entries:
        said = [f"{one.unreached} of {one.matrices} matrices were reached by no token"] if one.unreached else []
        said += [f"{one.broken} sums are no numbers"] if one.broken else []
        for what in said:
            groups[pattern_of(one.name), what] = groups.get((pattern_of(one.name), what), 0) + 1
    return [f"{printable(name)}{f' ({n} entries)' if n > 1 else ''}: {what}" for (name, what), n in groups.items()]


def _coverage_text(covered: Coverage) -> list[str]:
    missing, unknown = _kinds(covered.missing), _kinds(covered.unknown)
    total = covered.covered + len(covered.missing) + len(covered.misfits)
    lines = [f"  covers           {covered.covered} of {total} matrices of the model"]
    lines += [f"    without entry  {kind}" for kind in missing] + [f"    no tensor for  {kind}" for kind in unknown]
    return [*lines, *(f"    does not fit   {printable(name)}: {why}" for name, why in covered.misfits.items())]


def _kinds(names: Sequence[str]) -> list[str]:
    """Names that differ in their numbers only, together: so many kinds, and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(pattern_of(name), []).append(name)
    said = [printable(same[0] if len(same) == 1 else f"{kind} ({len(same)})") for kind, same in kinds.items()]
    return said[:_SHOWN] + ([f"and {len(said) - _SHOWN} more kinds"] if len(said) > _SHOWN else [])


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
