"""The page of a model that llama.cpp has run: read from a `check`, and from the `inspection` of its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from requant.cli.pages.content import Column, Entry, Fact, Page, Table, Tensors
from requant.cli.pages.inspection import entries, short, stored_tensors, type_table
from requant.cli.tables import count, size
from requant.cli.verdicts import verdict


def trial_page(document: Mapping[str, Any], inspection: Mapping[str, Any]) -> Page:
    """document: a `check`. inspection: of the same model, with all tensors and metadata."""
    info = document["info"]
    return Page(
        "check",
        PurePath(document["model"]).name,
        " · ".join([document["model"], info["description"]]),
        facts=[*_facts(document)],
        verdict=(document["ok"], "passed" if document["ok"] else "failed"),
        notes=[*document["failures"], *document["warnings"]],
        tables=[*_compared(document), *_versus(document), type_table(inspection["types"], inspection["parameters"])],
        tensors=_tensors(inspection, document.get("relative_errors", {})),
        said=[*_said(document["answer"])],
        lists=[("Metadata", [*entries(inspection["metadata"])])],
    )


def _tensors(inspection: Mapping[str, Any], errors: Mapping[str, float]) -> Tensors:
    """Those of the file; how far they are from the reference's, where that was looked at."""
    tensors = stored_tensors(inspection)
    if not errors:
        return tensors
    values = [errors.get(row["name"]) for row in inspection["tensors"]]
    error = Column("error", "relative error", "number", values, digits=5, scale="error")
    return replace(tensors, columns=[*tensors.columns[:4], error, *tensors.columns[4:]])


def _facts(document: Mapping[str, Any]) -> Iterator[Fact]:
    info, against = document["info"], document["against"]
    if (perplexity := document["perplexity"]) is not None:
        windows = f"{count(document['scored_tokens'])} tokens in windows of {count(document['window'])}"
        yield Fact("perplexity", f"{float(perplexity['value']):.4f}", f"± {float(perplexity['error']):.4f}; {windows}")
    if against is not None and (found := against["divergence"]) is not None:
        yield Fact(
            "KL divergence", f"{float(found['kl']['value']):.5f}", f"± {float(found['kl']['error']):.5f}, in nats"
        )
        top1 = found["top1"]
        yield Fact("top-1 agreement", f"{float(top1['value']):.2%}", f"± {float(top1['error']):.2%}")
    if against is not None and against["cosine"] is not None:
        yield Fact("cosine", f"{float(against['cosine']):.6f}", "of the worst embedding")
    if document["embedded"]:
        yield Fact("embeddings", f"{document['embedded']} texts", f"{count(info['width'])} numbers each, all finite")
    if (answer := document["answer"]) is not None:
        reading = document["tokens_per_second"]
        more = "generated" if reading is None else f"generated; {reading:.0f} read"
        yield Fact("tokens per second", f"{answer['tokens_per_second']:.1f}", more)
    yield Fact("parameters", short(info["parameters"]), count(info["parameters"]))
    yield Fact("weights", size(info["tensor_bytes"]), f"loaded in {info['seconds']:.1f} s")


def _compared(document: Mapping[str, Any]) -> Iterator[Table]:
    """The model beside its reference."""
    against = document["against"]
    if against is None:
        return
    rows = [["reference", against["reference"]], ["tokenizers", "equal" if against["tokens_equal"] else "DIFFERENT"]]
    if against["cosine"] is not None:
        rows.append(["cosine of the worst embedding", f"{float(against['cosine']):.6f}"])
    if (found := against["divergence"]) is not None:
        rows.append(["perplexity of the reference", _figure(against["perplexity"], 4)])
        rows += _divergence(found)
    yield Table("Beside the reference", ["what", "found"], rows)


def _versus(document: Mapping[str, Any]) -> Iterator[Table]:
    """A second model beside the same reference."""
    versus = document["versus"]
    if versus is None:
        return
    difference = versus["difference"]
    rows = [
        ["model", versus["model"]],
        *_divergence(versus["divergence"]),
        ["KL divergence of the first less that of this", _figure(difference["kl"], 5)],
        ["tokens at which the first is closer, share", _figure(difference["closer"], 4)],
        ["verdict", verdict(versus["real"], float(difference["kl"]["value"]), float(versus["deviations"]))],
    ]
    yield Table("Another model beside it", ["what", "found"], rows)


def _divergence(found: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["perplexity over the reference's", _figure(found["ratio"], 4)]
    yield ["KL divergence, mean", _figure(found["kl"], 5)]
    yield ["same likeliest token, share", _figure(found["top1"], 4)]
    for name, key in (("KL divergence, worst hundredth", "kl_99"), ("KL divergence, worst", "kl_max")):
        yield [name, _figure({"value": found[key], "error": found[f"{key}_error"]}, 4)]


def _figure(figure: Mapping[str, Any], digits: int) -> str:
    return f"{float(figure['value']):.{digits}f} ± {float(figure['error']):.{digits}f}"


def _said(answer: Mapping[str, Any] | None) -> Iterator[Entry]:
    if answer is not None:
        yield Entry("prompt" if answer["chat"] else "prompt, as it is", answer["prompt"])
        yield Entry("answer", answer["text"].strip())
