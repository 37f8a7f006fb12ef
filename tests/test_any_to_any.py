"""Every family that we write, read again, to every family that we write: a tiny llama, all tensors compared.

`copy` and `repack` must keep every value, `round` must stay within what the encoding can do. docs/formats.md has the
matrix.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from requant.cli.types import tensor_values
from requant.encodings import BLOCKS, Dense
from requant.execution import Options, execute
from requant.expressions import Form
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from requant.parts import read_values
from requant.plan import Fidelity
from requant.recipes import Overrides
from tests import tiny_folder
from tests.matrix import matrix, matrix_text, readable, written
from tests.naive_expressions import carried_out
from tests.tiny_folder import write_tiny_folder

#: Largest root mean square error of a tensor, relative to its values', by what it is stored as: normally distributed
#: weights, with room for a second rounding of what a first has left.
_BOUNDS = """
F32 1e-7  F16 6e-4  BF16 4e-3  Q8_0 .01  W8A16 .02  INT8 .02  W8A8 .02  FP8 .04  EXL2 .25  GPTQ .2  AWQ .16  W4A16 .2
MLX .2  NF4 .13  FP4 .2  NVFP4 .16  MXFP4 .2  Q4_0 .13  Q4_1 .13  Q4_K .11  IQ4_XS .11
"""
BOUNDS = dict(zip(_BOUNDS.split()[::2], map(float, _BOUNDS.split()[1::2]), strict=True))
EXACT = (Fidelity.COPY, Fidelity.REPACK)
#: The linear layers of a llama in GGML names.
LINEAR = r"(attn_(q|k|v|output)|ffn_\w+)\.weight"
NAMES = list(written())
RING = [(name, to) for n, name in enumerate(NAMES) for to in (name, NAMES[(n + 1) % len(NAMES)])]


def convert(source, folder, to):
    """A conversion to one column of the matrix, and what was written, read again."""
    block = to.removeprefix("GGUF ")
    if block == to:
        destination, request = folder / to, Request(to)
    else:
        destination = folder / f"{block}.gguf"
        request = Request("F16", Overrides(tensor_types=((LINEAR, BLOCKS[block]),)))
    target = FORMATS["gguf" if block != to else "safetensors"]
    plan = plan_conversion(detect(source).read(source), target, destination, request)
    execute(plan, Options(workers=2))
    return plan, destination


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The tiny llama in everything that we write, made when it is asked for."""
    root = tmp_path_factory.mktemp("matrix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_folder, "LAYERS", 1)
        first = write_tiny_folder(root / "tiny")
    return cache(lambda name: convert(first, root, name)[1])


def values(tensor):
    """A tensor as its codec decodes it; `tests` of each family hold those to their references."""
    return read_values(tensor).reshape(tensor.shape)


@pytest.mark.parametrize("name", ["BF16", "GPTQ", "NF4"])
def test_types_decodes_a_tensor_however_it_is_stored(sources, name):
    path = sources(name)
    tensor = next(tensor for tensor in detect(path).read(path).tensors if tensor.name.endswith("up_proj.weight"))
    assert np.array_equal(tensor_values(f"{path}:{tensor.name}"), values(tensor))


def check(sources, folder, name, to):
    """One cell of the matrix."""
    plan, destination = convert(sources(name), folder, to)
    again = {tensor.name: tensor for tensor in detect(destination).read(destination).tensors}
    assert set(again) == {step.target.name for step in plan.steps}
    for step in plan.steps:
        found, wanted = values(again[step.target.name]), carried_out(step.values, values)
        assert again[step.target.name].encoding == step.target.encoding
        if step.form is Form.CODES:  # products are the reader's affair: GPTQ rounds them to halves, ggml does not
            found, wanted = found.astype(np.float16), wanted.astype(np.float16)
        if step.fidelity in EXACT and to == "MLX" != name:  # it rounds the product before it adds the bias
            step_of = {"F16": 2.0**-10, "BF16": 2.0**-7}[step.target.encoding.scale] if step.form is Form.CODES else 0
            assert np.abs(found - wanted).max() <= step_of * np.abs(wanted).max(), step.target.name
            continue
        if step.fidelity in EXACT:
            assert np.array_equal(found, wanted), step.target.name
            continue
        stored = "F16" if step.target.encoding.label == "F16" else "BF16"
        bound = BOUNDS[stored if isinstance(step.target.encoding, Dense) else to.removeprefix("GGUF ")]
        error = np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean())
        assert 0 <= error < bound, (step.target.name, error)
    linear = [step for step in plan.steps if step.target.name.endswith(("up_proj.weight", "ffn_up.weight"))]
    cell = matrix()[name][to]
    for step in linear:
        if name != "EXL2":  # whose groups the weights choose
            assert cell == ("zeros" if step.keeps_codes and step.fidelity not in EXACT else step.fidelity.value)
        assert (step.fidelity in EXACT) == (cell in ("copy", "repack"))


@pytest.mark.parametrize(("name", "to"), RING)
def test_itself_and_the_next(sources, tmp_path, name, to):
    check(sources, tmp_path, name, to)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_family_to_every_family(sources, tmp_path, name):
    for to in NAMES:
        check(sources, tmp_path / to, name, to)


def test_the_matrix_in_the_documentation_is_the_registry_s():
    text = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
    _, _, after = text.partition("<!-- matrix -->\n")
    shown, _, _ = after.partition("\n<!-- /matrix -->")
    assert shown == matrix_text(), "python -m tests.matrix prints it"


def test_what_is_exact_is_what_is_known_to_be():
    """A few cells by hand: the matrix is computed from what encodings say of themselves."""
    cells = matrix()
    assert cells["GPTQ"]["AWQ"] == cells["AWQ"]["GPTQ"] == cells["GPTQ"]["GGUF Q4_0"] == "repack"
    assert cells["AWQ"]["GGUF Q4_1"] == "zeros"
    assert cells["MXFP4"]["GGUF MXFP4"] == cells["GGUF MXFP4"]["MXFP4"] == cells["MLX MXFP4"]["GGUF MXFP4"] == "repack"
    assert cells["GPTQ act-order"]["GGUF Q4_0"] == cells["EXL2"]["GPTQ"] == "round"
    assert all(cells[name][name] == "copy" for name in cells["F32"])
    assert set(readable()) > set(written())
