"""Parts of a model as files of their own: tensors, what was measured of them, tokenizer, templates, configuration."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from requant.dtypes import DTYPES
from requant.encodings import F32, Blocks, Dense, rows_of
from requant.errors import PlanError
from requant.expressions import Stored
from requant.formats import FORMATS
from requant.formats.imatrix import imatrix_checkpoint
from requant.formats.stored import stored_arrays
from requant.importance import Importance
from requant.inspection.figures import is_decoded
from requant.inspection.templates import DEFAULT, templates_of
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec
from requant.layout import Layout, LayoutOptions, OutputFile
from requant.plan import Plan, Step
from requant.sources import FileSlice, Identity, Memory, Source, noting, slices
from requant.tokenizers import to_hf
from requant.tokenizers.files import TOKENIZER_FILE

#: What tensors become, by the ending of the file.
ARRAY: Final = ".npy"
ARRAYS: Final = ".safetensors"
#: Endings of files that are no folders, whatever else is called with a dot in its name.
_OF_TENSORS: Final = (ARRAY, ARRAYS, ".gguf", ".bin", ".pt", ".dat")
_OF_TEXT: Final = (".json", ".jinja", ".txt", ".model")
_BYTES: Final = Dense(DTYPES["U8"])
_CONFIGS: Final = ("config.json", "generation_config.json")


def plan_tensors(source: Checkpoint[Tensor], tensors: Sequence[Tensor], destination: Path, *, raw: bool) -> Plan:
    """Tensors as float32; or, raw, as they are stored: blocks of a GGUF as rows of bytes, of others every array.

    Integers are always as they are stored, and so are NaN and infinities, which are what one may be looking for.
    Raises `PlanError` for a destination that cannot hold them.
    """
    steps: list[Step] = []
    for tensor in tensors:
        if raw or not is_decoded(tensor):
            steps += (Step(Stored(one), one) for one in _stored(tensor))
        else:
            steps.append(Step(Stored(tensor), TensorSpec(tensor.name, tensor.shape, F32)))
    return Plan(tuple(steps), _layout([step.target for step in steps], destination), opened=source.opened)


def _layout(specs: Sequence[TensorSpec], destination: Path) -> Layout:
    if destination.suffix == ARRAYS:
        described: Checkpoint[TensorSpec] = Checkpoint(Naming.HF, "", tuple(specs))
        return FORMATS["safetensors"].layout(described, destination, LayoutOptions())
    if destination.suffix != ARRAY:
        raise PlanError(
            f"{destination}: tensors become {ARRAY} or {ARRAYS} files", hint=f"for example {destination}{ARRAYS}"
        )
    if len(specs) != 1:
        raise PlanError(
            f"{destination}: {ARRAY} holds one array, and {len(specs)} are to be written: {specs[0].name}, …",
            hint=f"choose one with --only, or name a {ARRAYS} file",
        )
    (spec,) = specs
    head = io.BytesIO()
    assert isinstance(spec.encoding, Dense)
    described_array = {"descr": spec.encoding.dtype.numpy, "fortran_order": False, "shape": spec.shape}
    np.lib.format.write_array_header_1_0(head, described_array)
    start = head.getvalue()
    file = OutputFile(destination.name, start, len(start) + spec.nbytes, {(spec.name, "data"): len(start)})
    return Layout(destination.parent, (file,))


def plan_importance(importance: Importance, destination: Path) -> Plan:
    """The mean squares of inputs that quantizers heed, [matrices, columns] or [columns], by the name of the tensor."""
    tensors = []
    for name in importance.entries:
        means = importance.weights(name)
        assert means is not None
        shape = means.shape if len(means) > 1 else means.shape[1:]
        tensors.append(Tensor(name, shape, F32, {"data": Memory(means.astype("<f4").tobytes())}))
    return plan_tensors(imatrix_checkpoint(importance), tensors, destination, raw=True)


def plan_files(files: Mapping[str, Source], destination: Path, opened: Sequence[Source] = ()) -> Plan:
    """Files into a folder; a single one under the name that is given, where that is a file's.

    Raises `PlanError` for the name of a file that these are not.
    """
    suffix, kinds = destination.suffix.lower(), {Path(name).suffix for name in files}
    fits = len(files) == 1 and (suffix == ".json") == (kinds == {".json"})
    if suffix in _OF_TENSORS or (suffix in _OF_TEXT and not fits):
        told = next(iter(files)) if len(files) == 1 else f"{len(files)} files"
        raise PlanError(
            f"{destination}: {told} cannot be written under such a name",
            hint=f"name a folder, such as {destination.with_suffix('')}",
        )
    if len(files) == 1 and destination.suffix:
        (body,) = files.values()
        made = [OutputFile(destination.name, b"", body.nbytes, body=body)]
        return Plan((), Layout(destination.parent, tuple(made)), opened=tuple(opened))
    made = [OutputFile(name, b"", body.nbytes, body=body) for name, body in files.items()]
    return Plan((), Layout(destination, tuple(made)), opened=tuple(opened))


def plan_tokenizer(source: Checkpoint[Tensor], destination: Path) -> Plan:
    """The tokenizer as files of a Hugging Face folder; raises as `requant.tokenizers.to_hf`, or `PlanError`."""
    if source.naming is Naming.GGML:
        found = dict(to_hf(source.metadata).files)
    else:
        found = {name: body for name, body in source.files.items() if TOKENIZER_FILE.fullmatch(name)}
    if not found:
        raise PlanError(f"{source.path}: there are no tokenizer files", hint="a GGUF without tokenizer has none either")
    return plan_files(found, destination, source.opened)


def plan_templates(source: Checkpoint[Tensor], destination: Path) -> Plan:
    """The chat template in the file that is named; of several, each in a file of a folder."""
    found = templates_of(source)
    if not found:
        raise PlanError(f"{source.path}: there is no chat template in it")
    if destination.suffix:
        found = {DEFAULT: found[DEFAULT]} if DEFAULT in found else found
    if destination.suffix and len(found) > 1:
        raise PlanError(f"{source.path}: it has {len(found)} templates, none of them the default", hint="name a folder")
    bodies = {f"{name}.jinja": Memory(text.encode("utf-8", "surrogateescape")) for name, text in found.items()}
    return plan_files(bodies, destination, source.opened)


def plan_config(source: Checkpoint[Tensor], destination: Path) -> Plan:
    """config.json, and generation_config.json where there is one and the destination is a folder.

    Of a folder, its own; of a GGUF, as a conversion to a folder would write them, which raises for an unknown family.
    """
    from requant.operations.convert import Request, plan_conversion

    with noting() as noted:
        if source.naming is Naming.HF:
            found = _own_configs(source.folder)
        else:
            layout = plan_conversion(source, FORMATS["safetensors"], destination.with_suffix(""), Request()).layout
            found = {file.name: file.body or Memory(file.head) for file in layout.files if file.name in _CONFIGS}
    if destination.suffix:
        found = {name: body for name, body in found.items() if name == _CONFIGS[0]}
    if not found:
        raise PlanError(f"{source.path}: there is no config.json in it")
    return plan_files(found, destination, (*source.opened, *slices(noted)))


def _own_configs(folder: Path) -> dict[str, Source]:
    """The files of a folder, byte for byte."""
    paths = [folder / name for name in _CONFIGS if (folder / name).is_file()]
    return {path.name: FileSlice(path, 0, (status := path.stat()).st_size, Identity.of(status)) for path in paths}


def _stored(tensor: Tensor) -> tuple[Tensor, ...]:
    """The stored arrays of a tensor, each as a tensor; blocks of ggml as rows of bytes."""
    if isinstance(tensor.encoding, Blocks):
        rows = rows_of(tensor.shape)
        shape = (*tensor.shape[:-1], tensor.nbytes // rows if rows else 0)
        return (Tensor(tensor.name, shape, _BYTES, tensor.sources),)
    return tuple(
        Tensor(one.name, one.spec.shape, Dense(one.spec.dtype), {"data": tensor.sources[one.part]})
        for one in stored_arrays(tensor)
    )
