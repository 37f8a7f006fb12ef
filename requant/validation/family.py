"""A model beside the table of its family: every tensor that is missing, of another shape, or unknown."""

from __future__ import annotations

from collections.abc import Iterator

from requant import architectures
from requant.architectures.model import Model
from requant.architectures.names import Expected, expected, find, find_apart, find_parts
from requant.errors import PlanError, UnsupportedError
from requant.ir import Checkpoint, Naming, Tensor
from requant.passes.claim import Claim
from requant.passes.unwrap import Unwrap
from requant.plan import Translation, unchanged
from requant.printable import printable
from requant.validation.findings import Report


def check_family(source: Checkpoint[Tensor], report: Report) -> Model | None:
    """Look at hyperparameters, names and shapes; the model, as far as it is one of its family, which may be unknown."""
    found: list[Model] = []
    with report.noting("family", f"the family of {printable(source.architecture) or 'a model that names none'}"):
        said = _sized(source)
        found.append(said.known)
        if not _check_tensors(source.naming, said, report):
            _check_rest(said, report)
        report.checked.append(f"family {said.known.family.model_type}")
    return found[0] if found else None


def _sized(source: Checkpoint[Tensor]) -> Translation:
    """The checkpoint, its family known and its sizes."""
    other = _other(source.naming)
    said = unchanged(source)
    if source.naming is Naming.HF:
        said = Unwrap(other)(Claim(other)(said))
    for part in ("family", "hyperparameters"):
        said = architectures.translated(said, other, part)
    return said


def _other(naming: Naming) -> Naming:
    return Naming.HF if naming is Naming.GGML else Naming.GGML


def _check_tensors(naming: Naming, said: Translation, report: Report) -> int:
    """How many tensors of the family's table are missing, or of another shape."""
    model, wrong = said.known, 0
    for item in expected(model.family, model.sizes, model.flags, model.base, model.layers):
        first = item.ggml if naming is Naming.GGML else item.hf[0]
        if item.rule.optional and first not in model.tensors:
            continue
        for name, error in _troubles(naming, item, model):
            wrong += 1
            rule = "tensor-shape" if name in model.tensors else "missing-tensor"
            report.add(rule, str(error), error.hint)
    return wrong


def _troubles(naming: Naming, item: Expected, model: Model) -> Iterator[tuple[str, PlanError]]:
    """What is wrong with what one line of the table is made of."""
    if naming is Naming.GGML:
        try:
            find(item, item.ggml, item.ggml_shape, model.tensors)
        except PlanError as error:
            yield item.ggml, error
        return
    try:
        if find_apart(item, model.tensors):
            return
    except PlanError as error:
        yield next((n for names in item.apart for n in names if n in model.tensors), item.hf[0]), error
        return
    for name in item.hf:
        try:
            find_parts(item, name, item.shape, model.tensors)
        except PlanError as error:
            yield name, error


def _check_rest(said: Translation, report: Report) -> None:
    """What a family has besides its table, and whether anything is left over."""
    other = _other(said.source.naming)
    for part in ("names", "besides"):
        said = architectures.translated(said, other, part)
    if other is Naming.HF:
        left = [name for name in said.known.tensors if name not in said.known.used]
        for name in left:
            kind = f"{said.known.family.model_type} model"
            report.add("unknown-tensor", f"tensor {printable(name)!r} does not belong to a {kind} of these sizes")
        return
    try:
        architectures.translated(said, other, "leftovers")
    except UnsupportedError:
        raise
    except PlanError as error:
        report.add("unknown-tensor", report.without_path(str(error)), error.hint)


def vocabulary_of(source: Checkpoint[Tensor], model: Model | None) -> int | None:
    """Rows of the embedding; None where it is not known which tensor that is."""
    if model is not None:
        return model.vocabulary
    embedding = {tensor.name: tensor.shape for tensor in source.tensors}.get("token_embd.weight")
    return embedding[0] if embedding else None
