"""safetensors files, shards and folders: the official library and ours read each other, and nothing is changed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.cli.main import cli
from requant.dtypes import DTYPES
from requant.encodings import BLOCKS, DENSE, F16, F32, PartSpec
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.execution import execute
from requant.expressions import Stored
from requant.formats import FORMATS, detect
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec, Typed
from requant.layout import LayoutOptions
from requant.plan import Plan, Step
from requant.sources import Memory, read
from tests import models

FORMAT = FORMATS["safetensors"]
#: The reference writer's names of the dtypes; it cannot write the six-bit ones, only read them.
REFERENCE = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32",
    "I64": "int64", "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F4": "float4_e2m1fn_x2", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def tensors(draw, dtypes=tuple(DTYPES)):
    made = []
    for name in draw(st.lists(NAMES, unique=True, max_size=6)):
        dtype, shape = DTYPES[draw(st.sampled_from(dtypes))], draw(SHAPES)
        if dtype.bits < 8:
            shape = (*shape, 4)
        nbytes = PartSpec(dtype, shape).nbytes
        data = draw(st.binary(min_size=nbytes, max_size=nbytes))
        made.append(Tensor(name, shape, DENSE[dtype.label], {"data": Memory(data)}))
    return tuple(made)


def write(checkpoint, destination, **options):
    steps = tuple(Step(Stored(t), t) for t in checkpoint.tensors)
    return execute(Plan(steps, FORMAT.layout(checkpoint, destination, LayoutOptions(**options))))


def assembled(checkpoint):
    """The single file of a layout, put together without the executor."""
    (file,) = FORMAT.layout(checkpoint, FORMAT_PATH, LayoutOptions()).files
    content = bytearray(file.nbytes)
    content[: len(file.head)] = file.head
    for tensor in checkpoint.tensors:
        offset = file.slots[tensor.name, "data"]
        content[offset : offset + tensor.nbytes] = tensor.sources["data"].data
    return bytes(content)


FORMAT_PATH = Path("model.safetensors")


def content(checkpoint):
    return {t.name: (t.encoding.label, t.shape, bytes(read(t.sources["data"]))) for t in checkpoint.tensors}


@given(tensors(), st.dictionaries(NAMES, NAMES, max_size=3))
@settings(max_examples=150)
def test_the_official_library_reads_ours(made, metadata):
    typed = {key: Typed("str", value) for key, value in metadata.items()}
    written = assembled(Checkpoint(Naming.HF, "", made, metadata=typed))
    theirs = {
        name: (info["dtype"], tuple(info["shape"]), bytes(info["data"]))
        for name, info in safetensors.deserialize(written)
    }
    assert theirs == {t.name: (t.encoding.label, t.shape, t.sources["data"].data) for t in made}


@given(tensors(tuple(REFERENCE)), st.dictionaries(NAMES, NAMES, max_size=1))
@settings(max_examples=150)
def test_both_write_the_same_bytes_and_we_read_them(tmp_path_factory, made, metadata):
    arrays = {t.name: np.frombuffer(t.sources["data"].data or b"\0", np.uint8) for t in made}
    specs = {
        t.name: safetensors.TensorSpec(
            dtype=REFERENCE[t.encoding.label],
            shape=list(t.shape) if t.encoding.label != "F4" else [*t.shape[:-1], t.shape[-1] // 2],
            data_ptr=arrays[t.name].ctypes.data,
            data_len=t.nbytes,
        )
        for t in made
    }
    theirs = bytes(safetensors.serialize(specs, metadata or None))
    typed = {key: Typed("str", value) for key, value in metadata.items()}
    ours = Checkpoint(Naming.HF, "", made, metadata=typed)
    assert assembled(ours) == theirs
    path = tmp_path_factory.getbasetemp() / "theirs.safetensors"
    path.write_bytes(theirs)
    again = FORMAT.read(path)
    assert content(again) == content(ours)
    assert again.metadata == typed


def test_every_dtype_lies_at_a_multiple_of_its_size(tmp_path):
    made = tuple(
        Tensor(label, (4,), DENSE[label], {"data": Memory(bytes(DENSE[label].parts((4,))["data"].nbytes))})
        for label in DTYPES
    )
    write(Checkpoint(Naming.HF, "", made), tmp_path / "all.safetensors")
    for tensor in FORMAT.read(tmp_path / "all.safetensors").tensors:
        source = tensor.sources["data"]
        assert source.offset % max(1, DTYPES[tensor.name].bits // 8) == 0


def test_a_real_folder_survives_to_the_byte(tmp_path):
    folder = models.minilm()
    checkpoint = detect(folder).read(folder)
    assert (checkpoint.architecture, checkpoint.naming, len(checkpoint.tensors)) == ("bert", Naming.HF, 104)
    assert {"tokenizer.json", "vocab.txt", "modules.json", "1_Pooling/config.json"} <= set(checkpoint.files)
    write(checkpoint, tmp_path / "out")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    for path in written:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path / "out")).read_bytes(), path
    assert len(written) == len(checkpoint.files) + 2


@pytest.mark.parametrize("model", [models.silero, models.wordllama])
def test_real_files_survive(model, tmp_path):
    path = model()
    write(FORMAT.read(path), tmp_path / "out.safetensors")
    with safetensors.safe_open(path, framework="numpy") as before:
        after = safetensors.numpy.load_file(tmp_path / "out.safetensors")
        assert set(before.keys()) == set(after)
        metadata = before.metadata()
        for name in before.keys():  # noqa: SIM118 - not a mapping
            np.testing.assert_array_equal(before.get_tensor(name), after[name])
    with safetensors.safe_open(tmp_path / "out.safetensors", framework="numpy") as out:
        assert out.metadata() == metadata


def small(count=5, **fields):
    made = tuple(
        Tensor(f"t{i}", (2, i), F32, {"data": Memory(np.full((2, i), i, "<f4").tobytes())}) for i in range(count)
    )
    return Checkpoint(Naming.HF, "", made, **fields)


def test_shards_and_their_index(tmp_path):
    config = {"model_type": "llama", "z": 1, "a": [float("inf")], "é": None}
    files = {"tokenizer.json": Memory(b"{}"), "1_Pooling/config.json": Memory(b"[]")}
    receipt = write(small(config=config, files=files), tmp_path / "out", shard_bytes=32)
    shards = [name for name in receipt.files if name.endswith(".safetensors")]
    assert shards == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]  # t0 t1 t2 | t3 | t4
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 80
    assert index["weight_map"] == {"t0": shards[0], "t1": shards[0], "t2": shards[0], "t3": shards[1], "t4": shards[2]}
    for shard in shards:
        with safetensors.safe_open(tmp_path / "out" / shard, framework="numpy") as file:
            assert file.metadata() == {"format": "pt"}
            assert set(file.keys()) == {name for name, where in index["weight_map"].items() if where == shard}
    for opened in (tmp_path / "out", tmp_path / "out" / "model.safetensors.index.json"):
        again = detect(opened).read(opened)
        assert content(again) == content(small())
        assert again.config == config
        assert list(again.config) == list(config)
        assert again.architecture == "llama"
        assert {name: bytes(read(source)) for name, source in again.files.items()} == {
            "tokenizer.json": b"{}",
            "1_Pooling/config.json": b"[]",
        }
    alone = detect(tmp_path / "out" / shards[0]).read(tmp_path / "out" / shards[0])
    assert [t.name for t in alone.tensors] == ["t0", "t1", "t2"]
    assert not alone.config


def test_shards_by_number_of_tensors_and_of_a_single_file(tmp_path):
    receipt = write(small(), tmp_path / "net.safetensors", shard_tensors=2)
    assert list(receipt.files) == [
        *(f"net-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
        "net.safetensors.index.json",
    ]
    again = FORMAT.read(tmp_path / "net.safetensors.index.json")
    assert content(again) == content(small())


def test_transformers_loads_what_is_written(tmp_path):
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "in", max_shard_size="20KB")
    checkpoint = detect(tmp_path / "in").read(tmp_path / "in")
    assert len(list((tmp_path / "in").glob("*.safetensors"))) > 1
    write(checkpoint, tmp_path / "out", shard_bytes=30_000)
    again, info = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert (tmp_path / "in" / "generation_config.json").read_bytes() == (
        tmp_path / "out" / "generation_config.json"
    ).read_bytes()


@pytest.fixture
def folder(tmp_path):
    """A folder of three shards."""
    write(small(config={"model_type": "llama"}), tmp_path / "m", shard_bytes=32)
    return tmp_path / "m"


def refused(folder, *words):
    with pytest.raises(FormatError) as caught:
        FORMAT.read(folder)
    for word in words:
        assert word in str(caught.value)
    return caught.value


def edit_index(folder, **changes):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= changes
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "a\\b", "C:x.safetensors", "a\0b"]
)
def test_an_index_leads_nowhere_else(folder, name):
    edit_index(folder, t1=name)
    refused(folder, "'t1'", "no plain file name")


def test_a_missing_shard_is_an_error_with_or_without_index(folder):
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, "1 of 3 shards are missing", "model-00002-of-00003.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, "1 of 3 shards are missing", "model-00002-of-00003.safetensors")


def test_an_index_without_any_of_its_files_is_stale(folder):
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    refused(folder, "no *.safetensors")
    write(small(2), folder / "output.safetensors")
    checkpoint = FORMAT.read(folder)
    assert [t.name for t in checkpoint.tensors] == ["t0", "t1"]
    assert "of which none is here" in checkpoint.notices[0]


def test_an_index_that_names_other_tensors_is_stale(folder):
    edit_index(folder, gone="model-00001-of-00003.safetensors", t0="model-00002-of-00003.safetensors")
    checkpoint = FORMAT.read(folder)
    assert content(checkpoint) == content(small())
    (notice,) = checkpoint.notices
    assert "'gone' in model-00001-of-00003.safetensors" in notice
    assert "'t0' in model-00002-of-00003.safetensors" in notice
    for command in (["inspect"], ["inspect", "--json"], ["convert", "--to", "F16", "--dry-run"]):
        destination = [str(folder / "out.safetensors")] if command[0] == "convert" else []
        told = CliRunner().invoke(cli, [*command[:1], str(folder), *destination, *command[1:]])
        assert "does not count" in told.output, command
    refusing = ["convert", str(folder), str(folder / "out.safetensors"), "--to", "F16", "--fail-on-loss"]
    assert CliRunner().invoke(cli, refusing).exit_code != 0


def test_shards_without_index_are_read(folder):
    (folder / "model.safetensors.index.json").unlink()
    assert content(FORMAT.read(folder)) == content(small())


def test_a_tensor_missing_from_the_index_is_read(folder):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["t2"]
    path.write_text(json.dumps(index))
    checkpoint = FORMAT.read(folder)
    assert content(checkpoint) == content(small())
    assert checkpoint.notices == ("model.safetensors.index.json does not name 't2' in its files: read all the same",)


def test_weight_files_that_the_index_does_not_name_are_left_out_and_told(folder):
    assert FORMAT.read(folder).notices == ()
    write(small(1), folder / "other.safetensors")
    write(small(1), folder / "consolidated.safetensors")  # known to be a second copy
    checkpoint = FORMAT.read(folder)
    assert content(checkpoint) == content(small())
    assert checkpoint.notices == (
        "model.safetensors.index.json does not name other.safetensors beside its files: not read",
    )
    assert FORMAT.read(folder / "model.safetensors.index.json").notices == ()  # which was asked for by name


def test_several_indexes_count_for_nothing_and_are_told(folder):
    (folder / "model.safetensors.index.json").rename(folder / "a.safetensors.index.json")
    (folder / "b.safetensors.index.json").write_text("{")
    (notice,) = FORMAT.read(folder).notices
    assert notice.startswith("2 indexes, a.safetensors.index.json, b.safetensors.index.json")


def test_metadata_that_differs_between_shards_is_told(folder):
    for number, metadata in enumerate(({"format": "pt", "x": "1"}, {"format": "np"}, {"y": "2", "format": "np"}), 1):
        path = folder / f"model-0000{number}-of-00003.safetensors"
        tensors = safetensors.numpy.load_file(path)
        safetensors.numpy.save_file(tensors, path, metadata=metadata)
    checkpoint = FORMAT.read(folder)
    assert {key: typed.value for key, typed in checkpoint.metadata.items()} == {"format": "pt", "x": "1", "y": "2"}
    (notice,) = checkpoint.notices
    assert "'pt' in model-00001-of-00003.safetensors" in notice
    assert "'np' in model-00002-of-00003.safetensors" in notice


def test_a_tensor_in_two_files_is_refused(folder):
    (folder / "model.safetensors.index.json").unlink()
    write(small(1), folder / "other.safetensors")
    error = refused(folder, "other.safetensors", "'t0' is also in model-00001-of-00003.safetensors")
    assert "open one of the files" in error.hint


def test_second_copies_and_adapters_are_not_the_model(folder):
    write(small(1), folder / "consolidated.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    assert content(FORMAT.read(folder)) == content(small())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'{' expected"),
        ("[]", "'{' expected"),
        ("{}", "no weight_map"),
        ('{"weight_map": []}', "'{' expected"),
        ('{"weight_map": {"a": 1}}', "a string expected"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "names 'a' twice"),
        ('{"weight_map": {}, "weight_map": {}}', "weight_map is there twice"),
        ('{"weight_map": {}} x', "after the end"),
        ('{"metadata": ' + "[" * 100_000, "nested too deeply"),
        ("{" + " " * 3_000_000, "a string expected"),
        ('{"weight_map": {' + ",".join(f'"{i}": "{i}"' for i in range(10_002)) + "}}", "more than 10000 files"),
    ],
)
def test_broken_indexes(folder, text, words):
    (folder / "model.safetensors.index.json").write_text(text)
    refused(folder, "model.safetensors.index.json", words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "invalid JSON in line 1"),
        ('{\n"a": }', "invalid JSON in line 2"),
        ("[]", "must be an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
        ('{"a": ' + "[" * 64 + "]" * 64 + "}", "nested too deeply"),
        ('{"a": 1, "a": 2}', "two values for 'a'"),
        ('{"a": [' + "0," * 300_000 + "0]}", "more than 200,000 items"),
        (" " * 9_000_000, "more than"),
        ("\xff", "invalid JSON"),
    ],
)
def test_broken_configs(folder, text, words):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json", words)


def test_a_config_that_is_not_utf8(folder):
    (folder / "config.json").write_bytes(b'{"a": "\xff"}')
    refused(folder, "config.json", "UTF-8")


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '{"a": NaN, "b": -Infinity, "c": 1e999}', '\ufeff{"model_type": null}']
)
def test_configs_that_transformers_reads_too(folder, text):
    (folder / "config.json").write_text(text)
    assert FORMAT.read(folder).architecture == ""


def test_what_is_carried_and_what_is_not(folder):
    for name in ("pytorch_model.bin", "x.GGUF", "a.onnx", ".gitattributes", "pytorch_model.bin.index.json", "LICENSE"):
        (folder / name).write_bytes(b"x")
    for sub in ("onnx", "1_Pooling", ".git"):
        (folder / sub).mkdir()
        (folder / sub / "config.json").write_text("{}")
    (folder / "1_Pooling" / "pytorch_model.bin").write_bytes(b"")
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"of a module of its own")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("x")
    (folder / "tokenizer.json.v2").write_text("linked")
    (folder / "tokenizer.json").symlink_to("tokenizer.json.v2")
    os.mkfifo(folder / "pipe")
    checkpoint = FORMAT.read(folder)
    inner = {"1_Pooling/config.json", "2_Dense/model.safetensors", "additional_chat_templates/rag.jinja"}
    assert set(checkpoint.files) == {"LICENSE", "tokenizer.json", "tokenizer.json.v2", *inner}
    assert bytes(read(checkpoint.files["tokenizer.json"])) == b"linked"


def test_links_are_followed_into_the_cache_of_the_hub(folder, tmp_path):
    blobs = tmp_path / "hub/models--org--name/blobs"
    snapshot = blobs.parent / "snapshots" / ("c" * 40)
    for directory in (blobs, snapshot / "1_Pooling"):
        directory.mkdir(parents=True)
    files = [path for path in folder.iterdir() if path.is_file()]
    for number, path in enumerate([*files, Path("1_Pooling/config.json"), Path("tokenizer.json")]):
        blob = blobs / f"{number:0{40 if path.suffix == '.json' else 64}x}"
        blob.write_bytes(path.read_bytes() if path.is_absolute() else b"{}")
        place = snapshot / (path.name if path.is_absolute() else path)
        place.symlink_to(os.path.relpath(blob, place.parent))
    checkpoint = FORMAT.read(snapshot)
    assert [tensor.name for tensor in checkpoint.tensors] == [tensor.name for tensor in FORMAT.read(folder).tensors]
    assert set(checkpoint.files) == {"1_Pooling/config.json", "tokenizer.json"}
    assert checkpoint.notices == ()
    # as `download --local-dir` once left them
    (folder / "tokenizer.json").symlink_to((snapshot / "tokenizer.json").resolve())
    assert bytes(read(FORMAT.read(folder).files["tokenizer.json"])) == b"{}"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vocab.txt", "1_Pooling/config.json", "secret"])
@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_out_of_the_folder_is_refused(folder, tmp_path, name, linked):
    """Whatever it names would be copied into the output."""
    target = tmp_path / "elsewhere" / Path(name).name
    target.parent.mkdir()
    target.write_text("{}")
    place = folder / name
    if linked == "folder":
        place = folder / "2_Dense" / target.name
        place.parent.symlink_to(target.parent)
    else:
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(target)
    refused(folder, "a link out of the model's folder", str(target), str(place))


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "figure.png", "1_Pooling/README.md"])
def test_a_link_out_of_the_folder_to_prose_is_left_out_and_told(folder, tmp_path, name):
    (tmp_path / "passwd").write_text("secret")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(tmp_path / "passwd")
    checkpoint = FORMAT.read(folder)
    assert checkpoint.files == {}
    told = f"{name} is a link out of the folder, to {tmp_path / 'passwd'}: not followed, left out"
    assert checkpoint.notices == (told,)


def test_an_adapter_beside_a_model_is_told(folder):
    write(small(1), folder / "adapter_model.safetensors")
    (notice,) = FORMAT.read(folder).notices
    assert notice == "adapter_model.safetensors is an adapter: it is not put on the model"
    for path in folder.glob("model*"):
        path.unlink()
    assert FORMAT.read(folder).notices == ()  # by itself it is what was asked for


@pytest.mark.parametrize(("name", "words"), [("config.json", "No such file"), ("tokenizer.json", "leads nowhere")])
def test_a_link_that_leads_nowhere_is_told(folder, name, words):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("nowhere")
    refused(folder, name, words)


def test_what_is_recognized(tmp_path, folder):
    assert FORMAT.recognizes(folder)
    assert FORMAT.recognizes(folder / "model.safetensors.index.json")
    assert FORMAT.recognizes(folder / "model-00001-of-00003.safetensors")
    odd = tmp_path / "renamed"
    odd.write_bytes((folder / "model-00001-of-00003.safetensors").read_bytes())
    assert FORMAT.recognizes(odd)
    for name, data in {
        "a.gguf": b"GGUF" + bytes(99),
        "weights.npz": b"PK\3\4" + bytes(99),
        "config.json": b"{}",
    }.items():
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        (other / name).write_bytes(data)
        assert not FORMAT.recognizes(other / name)
        assert not FORMAT.recognizes(other)
    with pytest.raises(UnsupportedError):
        detect(tmp_path / "other")
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "model.safetensors").symlink_to("nowhere")
    assert FORMAT.recognizes(tmp_path / "dangling")
    refused(tmp_path / "dangling", "No such file")
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors", "not a regular file")
    refused(tmp_path / "nothing.safetensors", "No such file")


class Parted:
    """An encoding of two arrays, as the formats with several parts have them."""

    label, sliced = "parted", False

    def parts(self, shape):
        return {"codes": PartSpec(DTYPES["I32"], shape), "scales": PartSpec(DTYPES["F16"], shape[:1])}

    def granule(self, shape):
        return 1

    def stored_names(self, tensor):
        module = tensor.removesuffix(".weight")
        return {"codes": f"{module}.qweight", "scales": f"{module}.scales"}


def test_the_parts_of_a_tensor_are_stored_apart_but_in_one_file():
    specs = tuple(TensorSpec(f"{i}.weight", (4, 4), Parted()) for i in range(3))
    assert FORMAT.accepts(Parted())
    layout = FORMAT.layout(Checkpoint(Naming.HF, "", specs), Path("out"), LayoutOptions(shard_bytes=80))
    *shards, index = layout.files
    assert [set(shard.slots) for shard in shards] == [
        {(f"{i}.weight", "codes"), (f"{i}.weight", "scales")} for i in range(3)
    ]
    assert json.loads(index.head)["weight_map"]["1.scales"] == "model-00002-of-00003.safetensors"
    assert shards[0].nbytes == len(shards[0].head) + 64 + 8


def refused_layout(words, *specs, destination="out", **fields):
    with pytest.raises(PlanError, match=words):
        FORMAT.layout(Checkpoint(Naming.HF, "", specs, **fields), Path(destination), LayoutOptions())


def test_what_the_format_cannot_hold_is_an_error_of_the_plan():
    assert not FORMAT.accepts(BLOCKS["Q4_K"])
    refused_layout("has no Q4_K", TensorSpec("a", (256,), BLOCKS["Q4_K"]))
    refused_layout("'a'.*takes 4 bits", TensorSpec("a", (1,), DENSE["F4"]))
    refused_layout("cannot store this name", TensorSpec("__metadata__", (1,), F16))
    refused_layout("cannot store this name", TensorSpec("a\udcff", (1,), F16))
    refused_layout(
        "'a.scales' is needed twice", TensorSpec("a.weight", (1, 1), Parted()), TensorSpec("a.scales", (1,), F16)
    )
    refused_layout("text only", metadata={"n": Typed("u32", 7)})
    for name in ("../x", "/x", "", "config.json", "model.safetensors", "a/../b", "model.safetensors.index.json"):
        refused_layout("cannot be carried", files={name: Memory(b"")})
    many = (TensorSpec(str(i), (0,), F16) for i in range(100_001))
    refused_layout("readers accept 100000", *many, destination="x.safetensors")
