"""Two models of any formats beside each other: what they say of themselves, their tokenizers, and their tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from requant.adapters.recognized import is_any_adapter
from requant.architectures.rules import Family
from requant.comparing.numbers import Numbers, compared_numbers
from requant.comparing.settings import SAID_ELSEWHERE, Setting, Status, compared_settings
from requant.comparing.tensors import Row, compared_tensors
from requant.comparing.vocabulary import FILES, Vocabularies, compared_vocabularies
from requant.comparing.words import Pair, Said, Words, in_common_words
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Naming, Tensor
from requant.losses import Loss
from requant.operations.inspect import Report, report
from requant.passes.graft import Graft
from requant.sources import Source, check_unchanged, read

T = TypeVar("T")

#: Whose names the words of a comparison are.
_NAMED: Final = {Words.GGUF: "GGUF", Words.HF: "folders", Words.STORED: "the files"}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models. report: as `inspect` prints it. said: it in the words of the comparison."""

    report: Report
    said: Said

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        found, source, family = self.report, self.said.source, self.said.family
        return {
            "path": str(source.path),
            "format": found.format,
            "naming": source.naming.value,
            "architecture": source.architecture,
            "family": None if family is None else family.model_type,
            "tensors": found.total.tensors,
            "parameters": found.total.weights,
            "tensor_bytes": found.total.nbytes,
            "file_bytes": found.file_bytes,
            "bits_per_weight": round(found.total.bits_per_weight, 4),
            "types": {name: share.to_json() for name, share in found.by_type.items()},
        }


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file beside the weights that is not the same on both sides."""

    name: str
    status: Status

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {"name": self.name, "status": self.status.value}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two models, and what only one of them can hold.

    left_out: tensors that have no place in the words of the comparison, by the side that has them. with_values: whether
    their numbers were compared, too.
    """

    words: Words
    a: Side
    b: Side
    settings: tuple[Setting, ...]
    vocabularies: Vocabularies
    rows: tuple[Row, ...]
    files: tuple[FileRow, ...]
    left_out: tuple[tuple[str, Loss], ...]
    notes: tuple[str, ...]
    with_values: bool = False

    @property
    def differing(self) -> tuple[Row, ...]:
        """The tensors that are missing, or shaped or stored otherwise, or have other numbers."""
        return tuple(row for row in self.rows if row.differs)

    @property
    def equal(self) -> bool:
        """Whether nothing differs that both could hold."""
        return not (
            any(row.is_difference for row in self.settings)
            or self.vocabularies.differ
            or self.differing
            or self.files
            or self.words is Words.STORED
        )

    def summed(self, key: Callable[[Row], T | None]) -> list[tuple[T, Numbers]]:
        """The numbers of tensors that have one `key` together, worst first; those of None are of no group."""
        found: dict[T, Numbers] = {}
        for row in self.rows:
            group = key(row)
            if group is not None and row.numbers is not None:
                found.setdefault(group, Numbers()).add(row.numbers)
        return sorted(found.items(), key=lambda item: item[1].worst, reverse=True)

    @property
    def total(self) -> Numbers:
        """All numbers that were compared together."""
        total = Numbers()
        for row in self.rows:
            if row.numbers is not None:
                total.add(row.numbers)
        return total

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        tensors: list[Json] = []
        for row in self.rows:
            numbers = None if row.numbers is None else row.numbers.to_json()
            tensors.append(row.to_json() | ({"numbers": numbers} if self.with_values else {}))
        sums: dict[str, Json] = {
            "total": self.total.to_json(),
            "roles": {role: numbers.to_json() for role, numbers in self.summed(lambda row: row.role)},
            "layers": {str(layer): numbers.to_json() for layer, numbers in self.summed(lambda row: row.layer)},
        }
        return self._said() | {"tensors": tensors} | ({"sums": sums} if self.with_values else {})

    def _said(self) -> dict[str, Json]:
        return {
            "equal": self.equal,
            "names": self.words.value,
            "notes": list(self.notes),
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "settings": [row.to_json() for row in self.settings],
            "tokenizer": self.vocabularies.to_json(),
            "left_out": [
                {"side": side, "name": loss.subject, "reason": loss.detail, "bytes": loss.nbytes}
                for side, loss in self.left_out
            ],
            "files": [row.to_json() for row in self.files],
        }


def compare(
    a: tuple[str, Checkpoint[Tensor]],
    b: tuple[str, Checkpoint[Tensor]],
    only: re.Pattern[str] | None = None,
    grafts: tuple[Graft | None, Graft | None] = (None, None),
) -> Comparison:
    """Two models, each with the name of its format; nothing but headers and small files is read.

    only: tensors whose name contains no match are left out. grafts: what computes the tensors of a model that is
    described and not stored (see `requant.operations.merge.described`). Raises `PlanError` where only one is a model or
    `only` matches nothing, and `FormatError` for a file that changes meanwhile.
    """
    adapters = [is_any_adapter(source) for _, source in (a, b)]
    if adapters[0] is not adapters[1]:
        adapter, model = (a[1], b[1]) if adapters[0] else (b[1], a[1])
        raise PlanError(
            f"{adapter.path} is an adapter, {model.path} a model: what they hold cannot be compared",
            hint="requant merge BASE+ADAPTER -o OUT makes a model of it, and two adapters can be compared",
        )
    pair = in_common_words(a[1], b[1])
    sides = [Side(report(source, name), said) for (name, source), said in zip((a, b), (pair.a, pair.b), strict=True)]
    vocabularies = compared_vocabularies(pair)
    rows = compared_tensors(pair, grafts)
    if only is not None:
        rows = [row for row in rows if only.search(row.name)]
        if not rows:
            example = next(iter({**pair.a.moves, **pair.b.moves}), "")
            raise PlanError(
                f"no tensor has a name that {only.pattern!r} matches",
                hint=f"names are those of {_NAMED[pair.words]}, such as {example}",
            )
    found = Comparison(
        pair.words,
        sides[0],
        sides[1],
        tuple(compared_settings(pair)),
        vocabularies,
        tuple(rows),
        tuple(_files(pair, vocabularies)),
        tuple((side, loss) for side, said in (("a", pair.a), ("b", pair.b)) for loss in said.left_out),
        tuple(_notes(pair, vocabularies)),
    )
    check_unchanged((*a[1].opened, *b[1].opened))
    return found


def with_numbers(found: Comparison, workers: int, told: Callable[[int], object] = lambda values: None) -> Comparison:
    """`found`, and the numbers of every pair of tensors that can be compared; `told` hears how many are done.

    Raises `FormatError` for a file that changes meanwhile.
    """
    places = {number: nodes for number, row in enumerate(found.rows) if (nodes := row.comparable()) is not None}
    numbers = dict(zip(places, compared_numbers(list(places.values()), workers, told), strict=True))
    check_unchanged((*found.a.said.source.opened, *found.b.said.source.opened))
    rows = tuple(replace(row, numbers=numbers.get(number)) for number, row in enumerate(found.rows))
    return replace(found, rows=rows, with_values=True)


def comparable_values(found: Comparison) -> int:
    """How many numbers `with_numbers` will compare."""
    pairs = (row.comparable() for row in found.rows)
    return sum(pair[0].rows * pair[0].columns for pair in pairs if pair is not None)


def _notes(pair: Pair, vocabularies: Vocabularies) -> list[str]:
    notes = list(pair.notes)
    for side, said in (("A", pair.a), ("B", pair.b)):
        notes += [f"{side}: {note}" for note in said.notes]
    families = [said.family for said in (pair.a, pair.b)]
    kinds = [said.source.architecture or "of no architecture that is named" for said in (pair.a, pair.b)]
    if None not in families and not _related(families[0], families[1], alike=pair.a.translated is pair.b.translated):
        notes.append(f"different families: A is {kinds[0]}, B is {kinds[1]}")
    for side, family, kind in zip("AB", families, kinds, strict=True):
        if family is None:
            notes.append(f"{side} is {kind}, no family of requant's: names and keys are compared as they are")
    if vocabularies.unread:
        notes.append(f"tokenizers are not compared: {vocabularies.unread}")
    return notes


def _related(one: Family | None, other: Family | None, *, alike: bool) -> bool:
    """Whether two families are one; of a folder beside a GGUF, whether they share an architecture of GGUF."""
    return one is other or (one is not None and other is not None and not alike and one.ggml == other.ggml)


def _files(pair: Pair, vocabularies: Vocabularies) -> list[FileRow]:
    """What lies beside the weights of two folders, but for what is compared by its content."""
    if any(said.source.naming is not Naming.HF for said in (pair.a, pair.b)):
        return []
    ours, theirs = pair.a.source.files, pair.b.source.files
    found = []
    for name in sorted({*ours, *theirs} - SAID_ELSEWHERE):
        if FILES.fullmatch(name) and not vocabularies.unread:
            continue
        if name not in ours or name not in theirs:
            found.append(FileRow(name, Status.ONLY_A if name in ours else Status.ONLY_B))
        elif not _same(ours[name], theirs[name]):
            found.append(FileRow(name, Status.DIFFERS))
    return found


def _same(one: Source, other: Source) -> bool:
    return one.nbytes == other.nbytes and bool((read(one) == read(other)).all())
