"""What `requant inspect` does with what it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from requant.cli.inspection import About, metadata_text, plain, summary
from requant.cli.options import located
from requant.cli.saying import say_document
from requant.cli.selection import chosen, compiled, model_or_imatrix
from requant.cli.stages import byte_bar
from requant.cli.tensor_table import Order, Row, csv_text, ordered, tensor_table
from requant.cli.terminal import remark, say
from requant.errors import PlanError
from requant.inspection.recognized import is_imatrix
from requant.ir import Checkpoint, Naming, Tensor
from requant.operations.inspect import Report, report
from requant.operations.running import Asked as Running
from requant.printable import printable
from requant.sources import check_unchanged
from requant.system import USUAL_BANDWIDTH

if TYPE_CHECKING:
    from requant.cli.inspect import Asked


@dataclass(frozen=True, slots=True)
class Told:
    """A model, and what was found.

    rows: the tensors that were chosen, in order. oddities: what is strange about their numbers. document: what every
    document says of it, and `first` to people; texts: what was asked besides.
    """

    report: Report
    rows: Sequence[Row]
    oddities: Sequence[str]
    document: dict[str, object]
    first: str
    texts: Sequence[str]


def tell(model: str, asked: Asked) -> None:
    """Look, and say it."""
    order = ordered(asked.columns, asked.sort)
    if asked.html is not None:
        from requant.cli.pages.writing import check_page

        check_page(asked.html)
    values = asked.values or order.needs_values
    path = located(model, asked.quiet, headers=not values)
    if path.is_dir():
        from requant.operations.inspect_folder import is_model

        if not is_model(path):
            _tell_folder(path, asked, values=values)
            return
    told = _look(model, path, asked, order, values=values)
    _say(told, asked, order, values=values)
    if asked.html is not None:
        _write_page(told, asked.html)


def _tell_folder(path: Path, asked: Asked, *, values: bool) -> None:
    """A line for each model in a folder of them."""
    if asked.html is not None:
        raise PlanError(f"--html: {path} is a folder of models", hint="a page is of one: name a model in it")
    one = (asked.pattern, values, asked.columns, asked.sort, asked.as_csv, asked.ctx, asked.bandwidth)
    if any((*asked.beside().values(), *one)):
        raise PlanError(f"{path}: of a folder of models a line each is told", hint="name one of them for all else")
    from requant.cli.inspect_others import inspect_folder

    inspect_folder(path, as_json=asked.as_json)


def _look(model: str, path: Path, asked: Asked, order: Order, *, values: bool) -> Told:
    """What is there."""
    format_name, checkpoint = model_or_imatrix(path)
    elsewhere = not Path(model).exists()
    if elsewhere:  # one of the Hub is titled by the name asked for
        checkpoint = replace(checkpoint, path=Path(model))
    bandwidth = USUAL_BANDWIDTH if asked.bandwidth is None else asked.bandwidth * 1e9
    found = report(checkpoint, format_name, Running(asked.ctx, bandwidth))
    found = replace(found, named=model if elsewhere else "")
    placed = chosen(found.placed, lambda one: one.tensor.name, asked.pattern, "--tensors", path.name)
    rows, oddities = [Row(one) for one in placed], list[str]()
    if values:
        rows, oddities = _looked_at(rows, asked.quiet)
        check_unchanged(checkpoint.opened)
    about = About.of(checkpoint)
    document: dict[str, object] = {**found.to_json(), **about.to_json(), "notices": [*checkpoint.notices, *oddities]}
    first = summary(found, about, oddities)
    if is_imatrix(checkpoint):
        from requant.cli.inspect_others import importance_told

        against = None if asked.against is None else located(asked.against, asked.quiet)
        document["importance"], first = importance_told(path, against)
    elif asked.against is not None:
        raise PlanError(
            f"{path} is no importance matrix: --against says nothing", hint="`requant diff` compares models"
        )
    more, texts = _besides(checkpoint, asked)
    return Told(found, order.rows(rows), oddities, document | more, first, texts)


def _besides(checkpoint: Checkpoint[Tensor], asked: Asked) -> tuple[dict[str, object], list[str]]:
    """What `--tokenizer`, `--tokens` and `--template` add to the document, and what they say."""
    document, texts = dict[str, object](), list[str]()
    if asked.tokenizer or asked.tokens is not None:
        told, text = _tokenizer(checkpoint, asked.tokens, facts=asked.tokenizer)
        document |= told
        texts.append(text)
    if asked.template:
        from requant.cli.inspect_tokens import templates_text
        from requant.inspection.templates import templates_of

        templates = templates_of(checkpoint)
        document["templates"] = templates
        texts.append(templates_text(templates) if templates else "no chat template")
    return document, texts


def _say(told: Told, asked: Asked, order: Order, *, values: bool) -> None:
    """As CSV, as a document, or to people."""
    if asked.as_csv:
        for oddity in told.oddities:
            remark(f"note: {printable(oddity, 1000)}")
        say(csv_text(told.rows, order, values=values))
        return
    if asked.as_json:
        tensors = [row.placed.to_json(row.figures) for row in told.rows]
        more = _metadata(told.report.checkpoint) if asked.metadata else {}
        say_document("inspection", {**told.document, "tensors": tensors, **more})
        return
    say(told.first)
    if asked.pattern is not None or values or asked.columns or asked.sort:
        say("\n" + tensor_table(told.rows, order, values=values))
    for text in told.texts:
        say("\n" + text)
    if asked.metadata:
        say("\n" + metadata_text(told.report))


def _write_page(told: Told, path: Path) -> None:
    """All tensors and all metadata, whatever was asked for on the terminal."""
    from requant.cli.pages.inspection import inspection_page
    from requant.cli.pages.writing import write_page

    figures = {row.tensor.name: row.figures for row in told.rows}
    every = [one.to_json(figures.get(one.tensor.name)) for one in told.report.placed]
    document = {**told.document, "tensors": every, **_metadata(told.report.checkpoint)}
    remark(write_page(path, inspection_page(document)))


def _tokenizer(checkpoint: Checkpoint[Tensor], pattern: str | None, *, facts: bool) -> tuple[dict[str, object], str]:
    """What `--tokenizer` (facts) and `--tokens` add to the document, and what they say."""
    from requant.cli.inspect_tokens import tokenizer_text, tokens_table
    from requant.inspection.tokens import tokenizer_of

    found = tokenizer_of(checkpoint)
    document: dict[str, object] = {"tokenizer": found.to_json()} if facts else {}
    texts = [tokenizer_text(found)] if facts else []
    if pattern is not None:
        matching = found.matching(compiled(pattern, "--tokens"))
        if not matching:
            raise PlanError(f"none of the {len(found.tokens)} tokens contains a match for {pattern!r}")
        document["tokens"] = [token.to_json() for token in matching]
        texts.append(tokens_table(matching, found))
    return document, "\n\n".join(texts)


def _metadata(checkpoint: Checkpoint[Tensor]) -> dict[str, object]:
    """What `--metadata` adds."""
    told: dict[str, object] = {"config": dict(checkpoint.config)}
    told["metadata"] = {key: plain(field.value) for key, field in checkpoint.metadata.items()}
    told["metadata_types"] = {key: field.kind for key, field in checkpoint.metadata.items()}
    if checkpoint.naming is Naming.GGML and checkpoint.opened:
        from requant.formats.gguf.outline import outlines

        told["gguf"] = [one.to_json() for one in outlines(checkpoint)]
    return told


def _looked_at(rows: Sequence[Row], quiet: bool) -> tuple[list[Row], list[str]]:
    """The rows with the figures of their tensors, and what is strange about these."""
    from requant.cli.execution import telling_of_compilation
    from requant.inspection.figures import oddities, sparseness, surveyed

    tensors = [row.tensor for row in rows]
    with byte_bar(sum(tensor.nbytes for tensor in tensors), "reading", quiet) as bar, telling_of_compilation(quiet):
        figures = list(surveyed(tensors, bar.update))
    return [Row(row.placed, found) for row, found in zip(rows, figures, strict=True)], [
        *oddities(tensors, figures),
        *sparseness(tensors, figures),
    ]
