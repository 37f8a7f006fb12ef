"""All rules over one model: what `requant validate` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from requant.adapters.recognized import is_any_adapter
from requant.formats import detect
from requant.ir import PROJECTOR, Checkpoint, Naming, Tensor
from requant.journal import finish_around
from requant.validation.family import check_family, vocabulary_of
from requant.validation.findings import Report
from requant.validation.folder import check_files, is_model, read_folder
from requant.validation.gguf_file import read_gguf
from requant.validation.metadata import check_metadata
from requant.validation.tokenizer import check_tokenizer


def validate(
    path: Path, *, values: bool = False, begin: Callable[[int], Callable[[int], object]] = lambda total: lambda n: None
) -> Report:
    """Look at every rule of the files at `path`, of the format and of the family; raises `Error` only for no model.

    values: read every tensor as well, and decode it, in bounded memory. begin: called with how many bytes that will be;
    what it returns is called with the bytes of each tensor that is done.
    """
    finish_around(path)
    report = Report(path)
    found = detect(path)
    source = read_gguf(path, report) if found.naming is Naming.GGML else read_folder(path, report)
    if source is None:
        return report
    if source.naming is Naming.GGML:
        _check_gguf(source, report)
    else:
        model = check_family(source, report) if is_model(source) else None
        if is_model(source):
            check_files(source, vocabulary_of(source, model), report)
        else:
            report.unchecked.append("family and tokenizer: the files say of no model that they are its")
    if values:
        from requant.validation.numbers import check_values

        check_values(source, report, begin(sum(tensor.nbytes for tensor in source.tensors)))
    return report


def _check_gguf(source: Checkpoint[Tensor], report: Report) -> None:
    general = source.metadata.get("general.type")
    kind = general.value if general is not None else "model"
    if is_any_adapter(source) or source.architecture == PROJECTOR or kind not in ("model", ""):
        report.unchecked.append(f"family and tokenizer: the file is no model but {kind}")
        return
    check_metadata(source, report)
    check_tokenizer(source.metadata, report)
    if source.tensors:
        check_family(source, report)
    else:
        report.unchecked.append("family: the file has no tensors")
