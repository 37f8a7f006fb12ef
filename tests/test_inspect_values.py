"""`inspect --values`: what the numbers of tensors are like, beside a naive twin and in every encoding."""

import csv
import io
import json
import math

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from requant.cli.main import cli
from requant.encodings import F32
from requant.formats import open as open_model
from requant.inspection.figures import Survey, is_decoded, surveyed
from requant.ir import Tensor
from requant.parts import read_values
from requant.reducing import reduced
from requant.sources import Memory
from tests import naive_figures as naive
from tests.tiny_folder import write_tiny_folder

#: What is not a number, what is none to add up, what is hardly one; and signs of zero.
STRANGE = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -3e-39, 3.4028235e38, -3.4028235e38, 1.0, -2.5]
KINDS = ("normal", "heavy", "about one", "constant", "few", "huge", "tiny")


def drawn(kind, size, seed):
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(size)
    values = {
        "normal": normal * 0.02,
        "heavy": rng.standard_t(2, size),
        "about one": 1 + 0.001 * normal,
        "constant": np.full(size, 0.1),
        "few": rng.integers(-1, 2, size) * 0.75,
        "huge": rng.uniform(-3e38, 3e38, size),
        "tiny": normal * 1e-39,
    }[kind]
    return values.astype(np.float32)


def stored(values, shape=None):
    return Tensor("x", shape or values.shape, F32, {"data": Memory(values.astype("<f4").tobytes())})


def figures_of(tensor, workers=2):
    return next(reduced([Survey(tensor)], workers))


def agree(found, expected):
    for name, value in expected.items():
        ours = getattr(found, name)
        if isinstance(value, int) or name in ("least", "largest"):
            assert ours == value, name
        elif name == "mean":
            assert ours == pytest.approx(value, rel=1e-5, abs=1e-6 * expected["std"] + 1e-45), name
        else:
            assert ours == pytest.approx(value, rel=1e-4, abs=1e-5 if name == "kurtosis" else 1e-45, nan_ok=True), name


@given(st.sampled_from(KINDS), st.integers(0, 5000), st.integers(0, 1 << 16), st.lists(st.sampled_from(STRANGE)))
def test_figures_are_those_of_the_twin(kind, size, seed, strange):
    values = drawn(kind, size, seed)
    places = np.random.default_rng(seed).integers(0, max(1, size), len(strange))
    if size:
        values[places] = strange
    found, expected = figures_of(stored(values)), naive.figures(values)
    outliers = expected.pop("outliers")
    agree(found, expected)
    # a bound that lies at a BF16 number may fall to either side of it by what is rounded
    assert found.outliers == outliers or kind in ("few", "constant", "huge", "tiny") or strange


@given(st.sampled_from(KINDS), st.integers(1, 5000), st.integers(0, 1 << 16))
def test_bins_have_exactly_what_lies_between_their_edges(kind, size, seed):
    values = drawn(kind, size, seed)
    histogram = figures_of(stored(values)).histogram
    finite = values.astype(np.float64)
    below = [naive.below(finite, naive.truncated(finite), edge).sum() for edge in histogram.edges]
    assert list(histogram.edges) == sorted(set(histogram.edges))
    assert len(histogram.edges) == len(histogram.counts) + 1
    assert list(histogram.counts) == list(np.diff(below))
    assert histogram.below == below[0] and histogram.above == size - below[-1]


def test_what_is_far_from_the_mean_is_an_outlier():
    values = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32)
    values[:3] = [20, -30, 7]
    found = figures_of(stored(values))
    assert found.outliers == 3 and (found.histogram.below, found.histogram.above) == (1, 2)
    moved = figures_of(stored(values + 100))
    assert moved.outliers == 3


@pytest.mark.parametrize("kind", ["Q4_K", "BF16"])
def test_quantized_tensors_are_decoded(tmp_path, kind):
    write_tiny_folder(tmp_path / "tiny")
    run("convert", tmp_path / "tiny", tmp_path / "a.gguf", "--to", kind)
    for tensor in open_model(tmp_path / "a.gguf").tensors:
        values = read_values(tensor)
        agree(figures_of(tensor), {k: v for k, v in naive.figures(values).items() if k != "outliers"})


def test_layers_whose_rows_cannot_be_read_apart(tmp_path):
    write_tiny_folder(tmp_path / "tiny")
    run("convert", tmp_path / "tiny", tmp_path / "gptq", "--to", "GPTQ")
    tensors = [t for t in open_model(tmp_path / "gptq").tensors if not t.encoding.sliced]
    assert tensors
    for tensor in tensors:
        agree(figures_of(tensor), {k: v for k, v in naive.figures(read_values(tensor)).items() if k != "outliers"})


def test_results_depend_on_no_number_of_workers():
    rng = np.random.default_rng(0)
    tensors = [stored(rng.standard_normal((700 * n, 1024))) for n in (1, 4)]
    one, many = (list(reduced(map(Survey, tensors), workers)) for workers in (1, 5))
    assert one == many


def test_what_was_read_is_told():
    tensors = [stored(np.zeros((3000, 512), np.float32)), stored(np.zeros(7, np.float32))]
    told = []
    list(surveyed(tensors, told.append))
    assert len(told) > 2 and sum(told) == sum(tensor.nbytes for tensor in tensors)


def run(*words):
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A GGUF of tensors whose numbers tell that something went wrong."""
    path = tmp_path_factory.mktemp("odd") / "odd.gguf"
    rng, writer = np.random.default_rng(0), gguf.GGUFWriter(path, "odd")
    normal = rng.standard_normal((4, 64)).astype(np.float32)
    broken = normal.copy()
    broken[1, 2], broken[2, 3] = np.nan, np.inf
    for n in range(3):
        writer.add_tensor(f"blk.{n}.zero.weight", np.zeros((4, 64), np.float32))
        writer.add_tensor(f"blk.{n}.good.weight", normal * (n + 1))
    writer.add_tensor("broken", broken)
    writer.add_tensor("same", np.full(64, 1.5, np.float32))
    writer.add_tensor("ids", np.arange(64, dtype=np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_is_strange_is_noted(odd):
    said = json.loads(run("inspect", odd, "--values", "--json").stdout)
    assert said["notices"] == [
        "blk.*.zero.weight (3 tensors): every value is 0",
        "broken: 1 NaN and 1 infinite of its values",
        "same: every value is 1.5",
    ]
    assert run("inspect", odd, "--values").stdout.count("note ") == 3
    assert json.loads(run("inspect", odd, "--json").stdout)["notices"] == []


def test_values_are_part_of_a_tensor_and_integers_have_none(odd):
    tensors = {one["name"]: one for one in json.loads(run("inspect", odd, "--values", "--json").stdout)["tensors"]}
    assert "values" not in tensors["ids"]
    broken = tensors["broken"]["values"]
    assert (broken["nan"], broken["inf"]) == (1, 1) and broken["max"] < 5
    assert tensors["same"]["values"]["kurtosis"] == "nan"
    assert tensors["blk.2.zero.weight"]["values"]["zeros"] == 256
    assert tensors["blk.2.good.weight"]["layer"] == 2 and tensors["blk.2.good.weight"]["role"] == "good"


def test_offsets_are_those_of_the_reference(odd):
    tensors = json.loads(run("inspect", odd, "--json").stdout)["tensors"]
    expected = {one.name: int(one.data_offset) for one in gguf.GGUFReader(odd).tensors}
    assert {one["name"]: one["parts"]["data"]["offset"] for one in tensors} == expected


def test_a_table_is_ordered_by_any_column(odd):
    names = [line.split()[0] for line in listed(run("inspect", odd, "--sort", "std", "--columns", "tensor,std"))]
    assert names[:2] == ["blk.2.good.weight", "blk.1.good.weight"] and names[-1] == "ids"
    names = [line.split()[0] for line in listed(run("inspect", odd, "--sort", "-std", "--columns", "tensor,std"))]
    assert names[-2] == "blk.2.good.weight" and names[-1] == "ids"
    names = [line.split()[0] for line in listed(run("inspect", odd, "--sort", "tensor"))]
    assert names == sorted(names)


def listed(result):
    """The lines of the list of tensors."""
    lines = result.stdout.splitlines()
    return lines[next(n for n, line in enumerate(lines) if line.startswith("tensor ")) + 1 :]


def test_csv_has_whole_numbers_and_every_column(odd):
    rows = list(csv.DictReader(io.StringIO(run("inspect", odd, "--csv", "--values").stdout)))
    told = json.loads(run("inspect", odd, "--values", "--json").stdout)["tensors"]
    assert [row["tensor"] for row in rows] == [one["name"] for one in told]
    for row, one in zip(rows, told, strict=True):
        assert int(row["offset"]) == one["parts"]["data"]["offset"] and int(row["bytes"]) == one["bytes"]
        if "values" in one:
            assert math.isclose(float(row["std"]), float(one["values"]["std"]))
    assert run("inspect", odd, "--csv", "--columns", "type,tensor").stdout.splitlines()[:2] == [
        "type,tensor",
        "F32,blk.0.zero.weight",
    ]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--tensors", "nothing"], 4, "no name of its 9 tensors contains a match for 'nothing'"),
        (["--columns", "tensor,kurtosi"], 2, "did you mean kurtosis?"),
        (["--sort", "size"], 2, "there is no column 'size'; there are tensor, layer"),
        (["--json", "--csv"], 2, "do not go with it"),
    ],
)
def test_what_hits_nothing_is_an_error(odd, words, code, said):
    result = run("inspect", odd, *words)
    shown = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == code and said in shown


def test_tables_fit_a_narrow_terminal(odd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    narrow = run("inspect", odd, "--values").stdout.splitlines()
    assert all(len(line) <= 60 for line in narrow if not line.startswith((" ", str(odd))))
    monkeypatch.setenv("COLUMNS", "200")
    assert "histogram" in run("inspect", odd, "--values").stdout


def test_arrays_that_nobody_understands_are_looked_at_as_they_lie(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    arrays = {"a.weight": np.ones((4, 4), np.float32) * 2, "a.codes": np.zeros((4, 4), np.uint8)}
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "unheard-of"}}))
    tensors = json.loads(run("inspect", folder, "--values", "--json").stdout)["tensors"]
    assert [("values" in one) for one in tensors] == [is_decoded(t) for t in open_stored(folder)]


def open_stored(folder):
    from requant.formats import opened

    return opened(folder, as_stored=True)[1].tensors
