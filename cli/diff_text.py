"""A comparison of two models for people: what differs first, grouped; 80 columns wide."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

from requant.cli.tables import count, size, table
from requant.cli.terminal import width
from requant.comparing.numbers import Numbers
from requant.comparing.settings import Setting, Status
from requant.comparing.tensors import Row, Stored
from requant.comparing.vocabulary import Merges, Token, Vocabularies
from requant.comparing.words import Words
from requant.ir import Json
from requant.losses import grouped, pattern_of
from requant.operations.compare import Comparison, Side
from requant.printable import printable

#: What is told first: what is computed; what a model is called comes after it.
_ORDER: Final = {"model": 0, "general": 2, "file": 3}
#: Rows of a table before the rest is only counted.
_SHOWN: Final = 16
#: Rows of tables that begin with the worst.
_WORST: Final = 8
#: Lines of a template's diff.
_LINES: Final = 40
#: Characters of a value, of a key, of a name.
_VALUE, _KEY, _NAME = 20, 34, 40
_NAMED: Final = {Words.GGUF: "a GGUF's", Words.HF: "a folder's", Words.STORED: "each file's own"}


def comparison_text(found: Comparison, *, every: bool) -> str:
    """All of it. every: a line for each tensor, those that are equal too."""
    blocks = [
        _sides(found),
        *(["\n".join(f"note: {printable(note, 1000)}" for note in found.notes)] if found.notes else []),
        *_settings(found.settings),
        *_tokenizer(found.vocabularies),
        *_files(found),
        *_tensors(found, every=every),
        *(_numbers(found) if found.with_values else []),
        _verdict(found),
    ]
    return "\n\n".join(blocks)


def _sides(found: Comparison) -> str:
    lines = [_side(name, side) for name, side in (("A", found.a), ("B", found.b))]
    return "\n".join([*lines, f"compared in {_NAMED[found.words]} keys and names"])


def _side(name: str, side: Side) -> str:
    report, source = side.report, side.said.source
    kind = printable(source.architecture) or "architecture not stated"
    about = f"{count(report.total.weights)} parameters, {size(report.total.nbytes)}"
    path = printable(str(source.path), None)
    return f"{name}  {path}\n   {report.format}, {kind}: {about}, {report.total.bits_per_weight:.3f} bits per weight"


def _verdict(found: Comparison) -> str:
    if not found.equal:
        return "the models differ"
    held = any(not row.status.is_difference for row in found.settings) or found.left_out
    told = "" if found.with_values else " (numbers were not compared: --values)"
    return f"the models are equal{', but for what only one of them can hold' if held else ''}{told}"


# Keys


def _settings(rows: Sequence[Setting], title: str = "metadata and configuration") -> list[str]:
    told = sorted((row for row in rows if row.status.is_difference), key=lambda row: _ORDER.get(row.about, 1))
    blocks = []
    if told:
        cells = [[title, "A", "B", ""]]
        for row in told[:_SHOWN]:
            missing = {Status.ONLY_A: (_value(row.a), "-"), Status.ONLY_B: ("-", _value(row.b))}
            sides = missing.get(row.status, (_value(row.a), _value(row.b)))
            cells.append([_cut(row.key, _KEY), *sides, row.detail])
        blocks.append("\n".join([table(cells), *_more(len(told) - _SHOWN)]))
    for status, side in ((Status.HELD_BY_A, "A"), (Status.HELD_BY_B, "B")):
        held = [printable(row.key) for row in rows if row.status is status]
        if held:
            blocks.append(_wrapped(f"only {side} can hold, and no difference: ", held))
    return blocks


def _value(value: Json) -> str:
    return _cut(json.dumps(value, ensure_ascii=False), _VALUE)


def _cut(text: str, width: int) -> str:
    """At most so many characters."""
    return printable(text if len(text) <= width else f"{text[: width - 1]}…", None)


def _more(number: int) -> list[str]:
    return [f"... and {count(number)} more (--json lists all)"] if number > 0 else []


def _wrapped(head: str, words: Iterable[str], width: int = 80) -> str:
    """Words with commas between, in lines of at most `width` characters."""
    lines, ends = [head.rstrip()], list(words)
    for n, word in enumerate(ends):
        word += "," if n < len(ends) - 1 else ""
        if len(lines[-1]) + 1 + len(word) > width:
            lines.append(" ")
        lines[-1] += f" {word}"
    return "\n".join(lines)


# Tokenizers and files


def _tokenizer(found: Vocabularies) -> list[str]:
    if found.same_files:
        return ["tokenizers: the same files"]
    if not found.differ:
        if found.tokens_a is None:
            return [] if found.unread else ["tokenizers: none"]
        merges = f" and {count(found.merges.a)} merges" if found.merges.a else ""
        return [f"tokenizers: the same {count(found.tokens_a)} tokens{merges}", *_losses(found)]
    lines = [f"tokenizers: {_tokens(found.tokens_a)} in A, {_tokens(found.tokens_b)} in B"]
    kinds = (
        ("only A", [one for one in found.tokens if one.b is None], lambda one: f"{_text(one)} {one.a}"),
        ("only B", [one for one in found.tokens if one.a is None], lambda one: f"{_text(one)} {one.b}"),
        ("other id", [one for one in found.tokens if None not in (one.a, one.b)], _moved),
    )
    for what, tokens, shown in kinds:
        lines += _few(f"  {what}", [shown(one) for one in tokens])
    lines += _few("  other type", [f"{_quoted(text)} {a} -> {b}" for text, a, b in found.retyped])
    lines += [f"  other score ({count(found.rescored)})"] if found.rescored else []
    lines += _merges(found.merges)
    blocks = ["\n".join(lines), *_settings(found.settings, "tokenizer keys"), *_losses(found)]
    for template in found.templates:
        name = f"chat template {printable(template.name)}" if template.name else "chat template"
        shown_lines = [printable(line, 500) for line in template.diff[:_LINES]]
        blocks.append("\n".join([f"{name}:", *shown_lines, *_more(len(template.diff) - _LINES)]))
    return blocks


def _tokens(number: int | None) -> str:
    return "no tokens" if number is None else f"{count(number)} tokens"


def _text(token: Token) -> str:
    return _quoted(token.text)


def _quoted(text: str) -> str:
    return printable(json.dumps(text, ensure_ascii=False), 40)


def _moved(token: Token) -> str:
    return f"{_text(token)} {token.a} -> {token.b}"


def _few(what: str, items: Sequence[str]) -> list[str]:
    """What there is of a kind, and the first of them."""
    if not items:
        return []
    more = [f"and {count(len(items) - _WORST)} more"] if len(items) > _WORST else []
    return [_wrapped(f"{what} ({count(len(items))}): ", [*items[:_WORST], *more])]


def _merges(merges: Merges) -> list[str]:
    if not merges.differ:
        return []
    lines = [f"  merges: {count(merges.a)} in A, {count(merges.b)} in B"]
    lines += _few("  only A", [_quoted(one) for one in merges.only_a])
    lines += _few("  only B", [_quoted(one) for one in merges.only_b])
    return lines + (["  those of both come in another order"] if merges.moved else [])


def _losses(found: Vocabularies) -> list[str]:
    if not found.losses:
        return []
    return ["no place in a GGUF's tokenizer:\n" + "\n".join(f"  {printable(one, 500)}" for one in found.losses)]


def _files(found: Comparison) -> list[str]:
    if not found.files:
        return []
    lines = [f"  {row.status.value:<8}  {printable(row.name)}" for row in found.files[:_SHOWN]]
    return ["\n".join(["other files", *lines, *_more(len(found.files) - _SHOWN)])]


# Tensors


def _tensors(found: Comparison, *, every: bool) -> list[str]:
    both = sum(row.status is None for row in found.rows)
    head = f"tensors: {count(both)} in both, {count(len(found.differing))} of {count(len(found.rows))} differ"
    if every:
        return [head, _every(found.rows, with_values=found.with_values), *_left_out(found)]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in found.rows:
        if described := _described(row):
            groups.setdefault((*described, pattern_of(row.name)), []).append(row)
    rows = [["differs", "A", "B", "count", "tensor"]]
    for (*said, pattern), group in list(groups.items())[:_SHOWN]:
        name = pattern if len(group) > 1 else group[0].name
        rows.append([*said, count(len(group)), _cut(name, _NAME)])
    told = table(rows, right=frozenset({3}), width=width()) if groups else ""
    blocks = [told, *_more(len(groups) - _SHOWN)]
    return [head + "".join(f"\n{block}" for block in blocks if block), *_left_out(found)]


def _described(row: Row) -> tuple[str, str, str] | None:
    """What differs in a tensor, and how each side has it; None where numbers alone do, or nothing."""
    if row.status is not None:
        return row.status.value, _stored(row.a), _stored(row.b)
    if row.reshaped:
        return "+".join(one for one in row.differs if one != "values"), _stored(row.a), _stored(row.b)
    return ("type", _type(row.a), _type(row.b)) if row.retyped else None


def _type(stored: Stored | None) -> str:
    return "-" if stored is None else f"{stored.type} {stored.bits:.4g}"


def _stored(stored: Stored | None) -> str:
    return "-" if stored is None else f"{stored.type} {_shape(stored)}"


def _shape(stored: Stored) -> str:
    return "x".join(map(str, stored.shape)) or "scalar"


def _every(rows: Sequence[Row], *, with_values: bool) -> str:
    cells = [["differs", "A", "B", *(_HEADS if with_values else []), "tensor"]]
    for row in rows:
        sides = [_stored(one) if row.reshaped or row.status is not None else _type(one) for one in (row.a, row.b)]
        numbers = [""] * len(_HEADS) if row.numbers is None else _cells(row.numbers)
        cells.append([" ".join(row.differs), *sides, *(numbers if with_values else []), row.name])
    right = frozenset(range(3, 3 + len(_HEADS))) if with_values else frozenset[int]()
    return table(cells, right=right, width=width())


def _left_out(found: Comparison) -> list[str]:
    blocks = []
    for side in ("a", "b"):
        groups = grouped(loss for which, loss in found.left_out if which == side)
        if groups:
            lines = [
                f"  {printable(one.pattern)} ({one.count}, {size(one.nbytes)}): {printable(one.detail, 500)}"
                for one in groups[:_SHOWN]
            ]
            head = f"tensors that only {side.upper()} can hold, and no difference:"
            blocks.append("\n".join([head, *lines, *_more(len(groups) - _SHOWN)]))
    return blocks


# Numbers

_HEADS: Final = ["relative", "largest", "cosine", "SNR dB", "flips", "changed"]


def _cells(numbers: Numbers) -> list[str]:
    values = max(1, numbers.values)
    return [
        _short(numbers.relative),
        _short(numbers.largest),
        f"{numbers.cosine:.6f}",
        f"{numbers.decibels:.1f}",
        _share(numbers.flipped / values),
        _share(numbers.changed / values),
    ]


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.5f}" if 1e-4 <= value < 100 else f"{value:.2e}"


def _share(value: float) -> str:
    return "0" if value == 0 else f"{100 * value:.2f}%" if value >= 5e-5 else "<0.01%"


def _numbers(found: Comparison) -> list[str]:
    total = found.total
    head = f"numbers: {count(total.changed)} of {count(total.values)} changed; errors are B less A, relative to A"
    if not total.changed:
        return [f"numbers: all {count(total.values)} are equal{_not_finite(total)}"]
    blocks = [head + _not_finite(total) + "\n" + _worst("all", [("", total)])]
    blocks.append(_worst("role", found.summed(lambda row: row.role)))
    layers = found.summed(lambda row: row.layer)
    blocks += [_worst("layer", [(str(layer), numbers) for layer, numbers in layers])] if layers else []
    tensors = [(row.name, row.numbers) for row in found.rows if row.numbers is not None]
    tensors.sort(key=lambda item: item[1].worst, reverse=True)
    blocks.append(_worst("tensor", tensors))
    return blocks


def _not_finite(total: Numbers) -> str:
    parts = [
        f"{count(number)} in {where}"
        for number, where in ((total.bad_a, "A alone"), (total.bad_b, "B alone"), (total.bad_both, "both"))
        if number
    ]
    return f"\nNaN or infinite: {', '.join(parts)}" if parts else ""


def _worst(what: str, found: Sequence[tuple[str, Numbers]]) -> str:
    changed = [(name, numbers) for name, numbers in found if numbers.changed]
    cells = [[*_HEADS, what if what != "all" else ""]]
    cells += [[*_cells(numbers), _cut(name, _NAME)] for name, numbers in changed[:_WORST]]
    left = len(changed) - _WORST
    more = [f"... and {count(left)} more {what}s with smaller errors"] if left > 0 else []
    return "\n".join([table(cells, right=frozenset(range(len(_HEADS)))), *more])
