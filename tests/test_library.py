"""requant as a library: what a notebook shows."""

import doctest
import inspect
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import requant
from requant.encodings import DENSE
from requant.ir import Checkpoint, Naming, Tensor
from requant.recipes import RECIPES
from requant.sources import Memory
from tests import models
from tests.tiny_folder import write_tiny_folder


def test_the_public_names_are_shown_and_there():
    assert dir(requant) == sorted([*requant.__all__, "__version__"])
    for name in requant.__all__:
        assert getattr(requant, name) is not None
    assert requant.__version__ == version("requant")
    with pytest.raises(AttributeError, match="'requant' has no attribute 'nothing'"):
        requant.nothing  # noqa: B018


def test_importing_it_costs_nothing():
    loaded = "import sys, requant; print([name for name in ('numpy', 'numba', 'click', 'gguf') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "[]\n"


def test_a_model_and_a_plan_are_a_line_each(tmp_path):
    write_tiny_folder(tmp_path / "tiny")
    model = requant.open(tmp_path / "tiny")
    weights = sum(tensor.shape[0] * (tensor.shape[1] if tensor.shape[1:] else 1) for tensor in model.tensors)
    expected = f"<Checkpoint {tmp_path / 'tiny'}: llama, {len(model.tensors)} tensors, {weights:,} parameters>"
    assert repr(model) == expected
    target = requant.FORMATS["gguf"]
    plan = requant.plan_conversion(model, target, tmp_path / "out.gguf", requant.Request("Q8_0"))
    assert repr(plan).startswith(
        f"<Plan: {len(plan.steps)} tensors, {plan.layout.nbytes:,} bytes to {tmp_path}/out.gguf"
    )
    shards = requant.plan_conversion(
        model, target, tmp_path / "out.gguf", requant.Request(cut=requant.layout.LayoutOptions(shard_tensors=5))
    )
    assert f"{len(shards.layout.files)} files in {tmp_path}" in repr(shards)


#: What a program may rely on: a change here is one that users of the library have to be told of.
SIGNATURES = {
    "execute": "(plan, options=None, progress=<function>, *, overwrite=False, resume=False)",
    "open": "(model)",
    "plan_conversion": "(source, target, destination, request=<Request>)",
    "plan_requantization": "(source, target, destination, request)",
    "Options": "(workers=<factory>, replace_nan=None, measure=False, any_value=False)",
    "Request": "(recipe=None, overrides=<Overrides>, importance=None, key_values=(), cut=<LayoutOptions>, "
    "vocabulary=True, projector=False, mmproj=None, like=None, prune=(), feedback=None, smoothing=None, "
    "rehearsal=False)",
    "Receipt": "(files, seconds, bytes_read, errors, replaced, resumed=0, fetched=None, cluster=None)",
    "Plan": "(steps, layout, losses=(), obsolete=(), passes=(), opened=(), hints=(), expected_kl=None)",
    "Tensor": "(name, shape, encoding, sources)",
    "Checkpoint": "(naming, architecture, tensors, config=<factory>, metadata=<factory>, files=<factory>, "
    "path=<PosixPath>, "
    "notices=(), opened=(), obstacle=None)",
    "Error": "(message, *, hint='')",
}
MEMBERS = {
    "Tensor": {"name", "shape", "encoding", "nbytes", "numpy", "dtype", "parts", "sources"},
    "Plan": {
        "passes",
        "opened",
        "steps",
        "layout",
        "losses",
        "hints",
        "expected_kl",
        "obsolete",
        "removed",
        "bits_per_weight",
        "weights",
        "input_bytes",
        "fidelities",
        "fidelities_text",
        "rounding_json",
        "smoothed",
        "to_json",
    },
    "Receipt": {"files", "seconds", "bytes_read", "errors", "replaced", "resumed", "fetched", "cluster", "to_json"},
}


def signature(of):
    """Names and defaults; what a default of a class is, is another matter."""
    said = []
    star = False
    for name, parameter in inspect.signature(of).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            said, star = [*said, *([] if "*args" in said else ["*"])], True
        default = parameter.default
        if default is parameter.empty:
            said.append(f"*{name}" if parameter.kind is parameter.VAR_POSITIONAL else name)
        elif isinstance(default, (int, float, str, tuple, type(None))):
            said.append(f"{name}={default!r}")
        else:
            kind = "factory" if "factory" in repr(default) else type(default).__name__
            said.append(f"{name}=<{kind}>")
    return f"({', '.join(said)})"


def test_the_public_surface():
    found = {name: signature(getattr(requant, name)) for name in requant.__all__ if name != "FORMATS"}
    assert found == SIGNATURES
    for name, members in MEMBERS.items():
        assert {member for member in dir(getattr(requant, name)) if not member.startswith("_")} == members


def test_the_guide_is_what_happens(tmp_path, monkeypatch):
    (tmp_path / "SmolLM2-135M.gguf").symlink_to(models.smollm2())
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / "library.md").read_text()
    fences = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    examples = doctest.DocTestParser().get_doctest(fences, {}, "library.md", "library.md", 0)
    assert len(examples.examples) > 20
    runner = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST)
    said: list[str] = []
    runner.run(examples, out=said.append)
    assert not runner.failures, "".join(said)


def test_tensors_are_arrays(tmp_path):
    write_tiny_folder(tmp_path / "tiny")
    model = requant.open(str(tmp_path / "tiny"))
    norm = model["model.norm.weight"]
    assert list(model) == [tensor.name for tensor in model.tensors] and len(model) == len(model.tensors)
    assert norm.name in model and "nothing" not in model and model.get("nothing") is None
    values = np.asarray(norm)
    assert values.shape == norm.shape and values.dtype == norm.dtype
    assert np.array_equal(values, norm.numpy()) and np.asarray(norm, np.float64).dtype == np.float64
    assert (norm.numpy() + norm).dtype == norm.dtype and norm.numpy() is not norm.numpy()
    with pytest.raises(ValueError, match="lies in a file"):
        np.asarray(norm, copy=False)


@pytest.mark.parametrize("label", ["BOOL", "U8", "I8", "I16", "U16", "F16", "I32", "U32", "F32", "F64", "I64", "U64"])
def test_plain_numbers_are_read_as_they_are(label):
    values = np.array([[0, 1, 1], [1, 0, 1]], DENSE[label].dtype.native)
    tensor = Tensor("t", (2, 3), DENSE[label], {"data": Memory(values.tobytes())})
    assert tensor.dtype == values.dtype and tensor.numpy().dtype == values.dtype
    assert np.array_equal(tensor.numpy(), values)


def test_numbers_that_numpy_lacks_are_decoded():
    bits = np.array([0x3F80, 0xC000], np.uint16)
    tensor = Tensor("t", (2,), DENSE["BF16"], {"data": Memory(bits.tobytes())})
    assert tensor.dtype == np.float32 and tensor.numpy().tolist() == [1.0, -2.0]


def test_what_exists_is_replaced_only_when_told(tmp_path):
    write_tiny_folder(tmp_path / "tiny")
    model = requant.open(tmp_path / "tiny")
    plan = requant.plan_conversion(model, "gguf", str(tmp_path / "out.gguf"), requant.Request("F16"))
    requant.execute(plan)
    before = (tmp_path / "out.gguf").stat()
    with pytest.raises(requant.Error, match=r"out\.gguf exists") as refused:
        requant.execute(plan)
    assert "overwrite=True" in refused.value.hint and (tmp_path / "out.gguf").stat() == before
    requant.execute(plan, overwrite=True)
    assert (tmp_path / "out.gguf").stat().st_ino != before.st_ino
    with pytest.raises(requant.Error, match="no format is called 'ggfu'"):
        requant.plan_conversion(model, "ggfu", "out")


def test_the_shards_of_a_model_that_is_replaced_stay_without_being_told(tmp_path):
    write_tiny_folder(tmp_path / "tiny")
    model = requant.open(tmp_path / "tiny")
    cut = requant.layout.LayoutOptions(shard_tensors=5)
    requant.execute(requant.plan_conversion(model, "safetensors", tmp_path / "out", requant.Request("F16", cut=cut)))
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    plan = requant.plan_conversion(model, "safetensors", tmp_path / "out", requant.Request("F16"))
    with pytest.raises(requant.Error, match="exists"):
        requant.execute(plan)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == shards
    requant.execute(plan, overwrite=True)
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]


def test_a_notebook_shows_strings_of_strangers_as_text(tmp_path):
    evil = '<script>alert("x")</script>'
    tensor = Tensor(evil, (2,), DENSE["F32"], {"data": Memory(bytes(8))})
    model = Checkpoint(Naming.GGML, evil, (tensor,), path=Path(evil))
    shown = [model._repr_html_(), requant.Receipt({evil: 8}, 0.1, 8, {evil: 0.5}, {})._repr_html_()]
    shown.append(requant.plan_conversion(model, "gguf", tmp_path / "a<b>.gguf", requant.Request("F16"))._repr_html_())
    for text in shown:
        assert "<script" not in text and "<b>.gguf" not in text
        assert re.fullmatch(r"(?:[^<>]|</?(?:p|b|table|tr|th|td)(?: colspan=\"\d\")?>)*", text)
    assert "&lt;script&gt;" in shown[0] and "a&lt;b&gt;.gguf" in shown[2]


def test_a_string_may_name_a_model_of_the_hub_and_a_path_never(tmp_path, monkeypatch):
    from requant.hub import HubModel

    write_tiny_folder(tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HubModel, "fetch", lambda self: tmp_path / "cache" if self.repo == "owner/name" else None)
    assert len(requant.open("owner/name")) == len(requant.open(tmp_path / "cache"))
    with pytest.raises(requant.Error, match="there is no such file or folder"):
        requant.open(Path("owner/name"))
    with pytest.raises(requant.Error, match="there is no such file") as refused:
        requant.open("cahce")
    assert refused.value.hint == "did you mean cache?"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("Q5KM", "did you mean Q5_K_M?"),
        ("q4_k-m", "did you mean Q4_K_M?"),
        ("Q4_K_X", "did you mean Q4_K_S or Q4_K_M"),
        ("Q4_K_M,Q8_0", "one at a time: Q4_K_M, Q8_0"),
        ("IQ5", ""),
        ("something else", "otherwise"),
    ],
)
def test_what_may_have_been_meant(word, hint):
    from requant.nearest import did_you_mean

    assert did_you_mean(word, RECIPES, "otherwise").startswith(hint)


def test_a_command_that_is_none():
    from click.testing import CliRunner

    from requant.cli.main import cli

    told = CliRunner().invoke(cli, ["convrt"])
    assert told.exit_code == 2
    assert "No such command 'convrt'. Did you mean convert?" in told.stderr
