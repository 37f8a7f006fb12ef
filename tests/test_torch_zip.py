"""PyTorch files are read as torch reads them, and nothing in them is ever run."""

import collections
import io
import json
import os
import pickle
import struct
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.encodings import DENSE
from requant.errors import Error, FormatError, PlanError, UnsupportedError
from requant.formats import FORMATS, detect
from requant.formats.torch_zip.pickled import PickleError, load
from requant.formats.torch_zip.strided import StridedSlice
from requant.ir import Checkpoint, Naming
from requant.layout import LayoutOptions
from requant.sources import FileSlice, read
from tests import models

FORMAT = FORMATS["torch"]
TYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float32: "F32", torch.float64: "F64", torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}  # fmt: skip


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def opened(tmp_path, content, name="pytorch_model.bin"):
    path = tmp_path / name
    path.write_bytes(content)
    return FORMAT.read(path)


def content(checkpoint):
    return {t.name: (t.encoding.label, t.shape, bytes(read(t.sources["data"]))) for t in checkpoint.tensors}


def as_bytes(tensor):
    if not tensor.numel():
        return b""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return bytes(flat.view(torch.uint8).numpy())


def expected(state):
    return {name: (TYPES[t.dtype], tuple(t.shape), as_bytes(t)) for name, t in state.items()}


@st.composite
def views(draw):
    """A tensor of any type, seen in any way."""
    dtype = draw(st.sampled_from(list(TYPES)))
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    size = torch.empty(0, dtype=dtype).element_size()
    count = int(np.prod(shape, dtype=int))
    if not count:
        return torch.zeros(shape, dtype=dtype)
    raw = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, count * size, dtype=np.uint8)
    tensor = torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)
    match draw(st.sampled_from(["whole", "transposed", "steps", "expanded", "diagonal", "part"])):
        case "transposed":
            return tensor.permute(draw(st.permutations(range(tensor.dim()))))
        case "steps" if tensor.dim():
            return tensor[..., :: draw(st.integers(1, 3))]
        case "expanded":
            return tensor.unsqueeze(0).expand(draw(st.integers(0, 3)), *shape)
        case "diagonal" if tensor.dim() > 1:
            return tensor.diagonal()
        case "part" if tensor.dim():
            return tensor[draw(st.integers(0, 2)) :]
    return tensor


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), views(), max_size=4))
@settings(max_examples=150)
def test_every_view_of_every_type(tmp_path_factory, state):
    state["always"] = torch.arange(3)
    assert content(opened(tmp_path_factory.getbasetemp(), saved(state))) == expected(state)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), min_size=1, max_size=4),
    st.sampled_from([1, 2, 4]),
    st.data(),
)
@settings(max_examples=150)
def test_any_stretch_of_a_strided_tensor(tmp_path_factory, axes, itemsize, data):
    shape, strides = zip(*axes, strict=True)
    span = 1 + sum((size - 1) * stride for size, stride in axes)
    numbers = np.random.default_rng(0).integers(0, 256, (span + 3, itemsize), dtype=np.uint8)
    path = tmp_path_factory.getbasetemp() / "numbers"
    path.write_bytes(numbers.tobytes())
    source = StridedSlice(path, 3 * itemsize, itemsize, shape, strides)
    steps = (*(stride * itemsize for stride in strides), 1)
    whole = np.lib.stride_tricks.as_strided(numbers[3:], (*shape, itemsize), steps).tobytes()
    start = data.draw(st.integers(0, source.nbytes))
    stop = data.draw(st.integers(start, source.nbytes))
    assert bytes(read(source, start, stop)) == whole[start:stop]


def test_a_large_transposed_matrix_is_gathered_piece_by_piece(tmp_path):
    matrix = torch.randn(700, 900)
    checkpoint = opened(tmp_path, saved({"w": matrix.T}))
    (tensor,) = checkpoint.tensors
    rows = read(tensor.sources["data"], 4 * 700 * 100, 4 * 700 * 150)
    assert bytes(rows) == as_bytes(matrix.T[100:150])
    assert bytes(read(tensor.sources["data"])) == as_bytes(matrix.T)


def test_modules_parameters_and_tied_weights(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(4, 5))
    model[2].weight = model[0].weight
    state = model.state_dict()
    assert isinstance(state, collections.OrderedDict)  # and has attributes
    assert content(opened(tmp_path, saved(state))) == expected(state)
    parameters = dict(model.named_parameters())
    assert content(opened(tmp_path, saved(parameters))) == expected(parameters)
    named = {"state_dict": state, "epoch": 3, "note": "é", "optimizer": {"lr": [0.1, None, (1, 2)]}}
    assert content(opened(tmp_path, saved(named))) == expected(state)
    with_numbers = {**state, "version": 7}
    assert opened(tmp_path, saved(with_numbers)).metadata["version"].value == "7"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(tmp_path, protocol):
    state = {"a": torch.randn(2, 3), "b": torch.zeros(2, dtype=torch.float8_e5m2), "n": 5, "t": (1, "x"), "f": 1.5}
    tensors = {name: state[name] for name in "ab"}
    assert content(opened(tmp_path, saved(state, pickle_protocol=protocol))) == expected(tensors)


def test_contiguous_tensors_are_slices_of_the_file(tmp_path):
    base = torch.arange(100.0)
    checkpoint = opened(tmp_path, saved({"a": base[10:20], "b": base.view(10, 10)[3:]}))
    assert all(isinstance(t.sources["data"], FileSlice) for t in checkpoint.tensors)
    assert (
        checkpoint.tensors[0].sources["data"].offset % 64 == 40
    )  # torch aligns storages; this view begins at the tenth


def test_shards_and_their_folder(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    state = {f"t{i}": torch.full((2, i), float(i)) for i in range(4)}
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    torch.save({"t0": state["t0"], "t1": state["t1"]}, folder / names[0])
    torch.save({"t2": state["t2"], "t3": state["t3"]}, folder / names[1])
    weight_map = {name: names[int(name[1]) // 2] for name in state}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    torch.save({"x": torch.zeros(1)}, folder / "training_args.bin")
    for path in (folder, folder / "pytorch_model.bin.index.json"):
        assert detect(path) is FORMAT
        checkpoint = FORMAT.read(path)
        assert content(checkpoint) == expected(state)
        assert checkpoint.architecture == "llama"
        assert list(checkpoint.files) == ["tokenizer.json"]
    (folder / names[1]).unlink()
    with pytest.raises(FormatError, match="1 of 2 shards are missing"):
        FORMAT.read(folder)


def rewritten(archive, edit=lambda name, data: data, method=zipfile.ZIP_STORED):
    """The same archive with edited members; `edit` returns None to leave one out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as before, zipfile.ZipFile(out, "w", method) as after:
        for name in before.namelist():
            data = edit(name, before.read(name))
            if data is not None:
                after.writestr(name, data)
    return out.getvalue()


def with_program(program, members=None):
    """An archive with this pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("any name/data.pkl", program)
        for name, data in (members or {"data/0": bytes(16)}).items():
            archive.writestr(f"any name/{name}", data)
    return out.getvalue()


def test_storages_saved_on_a_gpu(tmp_path):
    state = {"a": torch.randn(3, 3)}

    def move(name, data):
        return data.replace(b"X\3\0\0\0cpu", b"X\6\0\0\0cuda:0") if name.endswith("data.pkl") else data

    moved = rewritten(saved(state), move)
    assert b"cuda:0" in moved
    assert content(opened(tmp_path, moved)) == expected(state)


def zip64(members):
    """An archive whose every size and offset is in the 64-bit fields."""
    body, directory = bytearray(), bytearray()
    for name, data in members.items():
        raw, crc = name.encode(), zipfile.crc32(data)
        extra = struct.pack("<HHQQ", 1, 16, len(data), len(data))
        header = len(body)
        body += struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 0, crc, 2**32 - 1, 2**32 - 1, len(raw), len(extra) + 7)
        body += raw + extra + b"FB\3\0ZZZ" + data  # the local extra field is longer than the directory's
        wide = struct.pack("<HH", 0x4242, 0) + struct.pack("<HHQQQ", 1, 24, len(data), len(data), header)
        lengths = 2**32 - 1, 2**32 - 1, len(raw), len(wide)
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 45, 45, 0, 0, 0, 0, crc, *lengths, 0, 0, 0, 0, 2**32 - 1)
        directory += raw + wide
    start, end = len(body), len(body) + len(directory)
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, len(members), len(members), len(directory), start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    return bytes(body + directory + record + locator + last)


def test_64_bit_archives(tmp_path):
    state = {"a": torch.randn(3, 3), "b": torch.arange(5)}
    with zipfile.ZipFile(io.BytesIO(saved(state))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert content(opened(tmp_path, zip64(members))) == expected(state)


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["top", "value", "list", "build"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_programs_are_never_run(tmp_path, place, protocol):
    attack = Calls(os.mkdir, str(tmp_path / "owned"))
    value = {"top": attack, "value": {"a": attack}, "list": [torch.Size([1]), [attack]], "build": {"a": [attack] * 2}}
    program = pickle.dumps(value[place], protocol=protocol)
    with pytest.raises(FormatError, match=r"data\.pkl asks to call '(posix|os)\.mkdir'") as caught:
        opened(tmp_path, with_program(program))
    assert "nothing of it was run" in caught.value.hint
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "function",
    [
        "builtins.eval",
        "torch.int.x",
        "torch.integrity",
        "builtins.getattr",
        "torch.load",
        "torch.hub.load",
        "torch.storage._load_from_bytes",
        "os.system",
    ],
)
def test_no_other_function_is_known(tmp_path, function):
    module, _, name = function.rpartition(".")
    program = b"\x80\2c" + module.encode() + b"\n" + name.encode() + b"\n(X\1\0\0\0atR."
    with pytest.raises(FormatError, match="asks to call"):
        opened(tmp_path, with_program(program))


def test_names_of_data_are_not_called():
    for name in (b"float16", b"FloatStorage"):
        with pytest.raises(PickleError, match="torch"):
            load(b"\x80\2ctorch\n" + name + b"\n)R.")


def test_older_files_are_refused_by_name(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(saved({"a": torch.zeros(1)}, _use_new_zipfile_serialization=False))
    assert detect(path) is FORMAT
    with pytest.raises(UnsupportedError, match=r"before version 1\.6") as caught:
        FORMAT.read(path)
    assert "torch.save(torch.load(" in caught.value.hint


def test_other_things_torch_writes_are_refused_by_name(tmp_path):
    state = {"a": torch.zeros(4)}
    compressed = rewritten(saved(state), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedError, match="compressed"):
        opened(tmp_path, compressed)
    big = rewritten(saved(state), lambda name, data: b"big" if name.endswith("byteorder") else data)
    with pytest.raises(UnsupportedError, match="big-endian"):
        opened(tmp_path, big)
    with pytest.raises(UnsupportedError, match=r"torch\.ComplexDoubleStorage"):
        opened(tmp_path, saved({"a": torch.zeros(1, dtype=torch.complex128)}))
    with pytest.raises(FormatError, match="no dictionary of tensors"):
        opened(tmp_path, saved([torch.zeros(1)]))
    with pytest.raises(UnsupportedError, match="TorchScript"):
        opened(tmp_path, with_program(b"N.", {"constants.pkl": b""}))
    for kind in ("sparse", "whole model"):
        value = torch.eye(2).to_sparse() if kind == "sparse" else torch.nn.Linear(1, 1)
        with pytest.raises(FormatError, match="asks to call"):
            opened(tmp_path, saved({"a": value}))


def storage_program(storage=b"FloatStorage", key=b"0", numel=4, offset=0, shape=(4,), strides=(1,)):
    """The pickle of one tensor, with anything wrong in it."""

    def integers(values):
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"

    text = lambda value: b"X" + struct.pack("<I", len(value)) + value  # noqa: E731
    reference = b"(" + text(b"storage") + b"ctorch\n" + storage + b"\n" + text(key) + text(b"cpu")
    reference += b"\x8a\x08" + struct.pack("<q", numel) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + b"\x8a\x08" + struct.pack("<q", offset)
    return b"\x80\2}" + text(b"w") + call + integers(shape) + integers(strides) + b"\x89}tRs."


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"shape": (5,)}, "ends at byte 20 of a storage of 16 bytes"),
        ({"offset": 1}, "ends at byte 20"),
        ({"strides": (2,)}, "ends at byte 28"),
        ({"numel": 5}, "a storage of 20 bytes in a member of 16"),
        ({"storage": b"DoubleStorage"}, "a storage of 32 bytes"),
        ({"key": b"1"}, "its storage '1' is not in the archive"),
        ({"key": b"../data.pkl"}, "is not in the archive"),
        ({"offset": -1}, "do not fit each other"),
        ({"shape": (-1,)}, "are no sizes"),
        ({"strides": (-1,)}, "are no sizes"),
        ({"shape": (2, 2)}, "do not fit each other"),
        ({"shape": (1,) * 65, "strides": (1,) * 65}, "do not fit each other"),
        ({"shape": (2**62, 2**62), "strides": (0, 0)}, "ends at byte"),
        ({"numel": -4}, "no storage"),
    ],
)
def test_tensors_lie_in_their_storages(tmp_path, broken, words):
    assert content(opened(tmp_path, with_program(storage_program()))) == {"w": ("F32", (4,), bytes(16))}
    with pytest.raises(FormatError, match=words):
        opened(tmp_path, with_program(storage_program(**broken)))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"", "ends early"),
        (b"\x80\2", "ends early"),
        (b".", "stack is empty"),
        (b"(.", "stack is empty"),
        (b"t.", "no mark"),
        (b"h\1.", "nothing is remembered"),
        (b"i.", "instruction 0x69"),
        (b"X\xff\xff\xff\xffa.", "ends early"),
        (b"X\1\0\0\0\xff.", "not UTF-8"),
        (b"\x8b\xff\xff\xff\x7f.", "more than 16 bytes"),
        (b"NK\1K\2s.", "no dictionary"),
        (b"})K\1s.", "neither text nor a small number"),
        (b"}\x8a\x08" + b"\x7f" * 8 + b"Ns.", "neither text nor a small number"),
        (b"Na.", "stack is empty"),
        (b"NNa.", "no list"),
        (b"NNR.", "no function"),
        (b"(X\1\0\0\0atQ.", "no storage"),
        (b"cos", "name without end"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "described wrongly"),
        (b"ctorch._utils\n_rebuild_parameter\n)R.", "without arguments"),
        (b"ccollections\nOrderedDict\n(NtR.", "described wrongly"),
        (b"c_codecs\nencode\n(NtR.", "described wrongly"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(NtR.", "described wrongly"),
    ],
)
def test_broken_programs(program, words):
    with pytest.raises(PickleError, match=words):
        load(program)


@pytest.mark.parametrize(
    "program",
    [
        b"]" * 2_000_000,
        b"}r\xff\xff\xff\x7f" * 2_000_000,
        b"]" + b"\x85" * 2_000_000,
        b"}" + b")" + b"\x85" * 500_000 + b"Ns.",
        b"(" + b"N" * 400_000 + b"tq\0" + b"ctorch\nSize\n" + b"h\0\x85R" * 1000 + b".",
        b"X\0\0\x10\0" + b"a" * 0x100000 + b"q\0" + b"c_codecs\nencode\n(h\0X\6\0\0\0latin1tR0" * 10_000 + b".",
        b"\x80\2" + b"(" * 500_000 + b"t" * 500_000,
    ],
    ids=["lists", "memo", "nested", "nested key", "long call", "long text", "marks"],
)
def test_bombs_end_soon(tmp_path, program):
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before = status("VmRSS")
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(with_program(program))
    began = time.process_time()
    with pytest.raises(FormatError):
        FORMAT.read(path)
    assert time.process_time() - began < 8  # about one second on a quiet machine
    assert status("VmHWM") - before < 100e6


def status(field):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return 1024 * int(line.split()[1])


def test_a_truncated_file_is_told(tmp_path):
    whole = saved({"a": torch.randn(100)})
    for end in (4, 100, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "pytorch_model.bin"
        path.write_bytes(whole[:end])
        assert detect(path) is FORMAT
        with pytest.raises(FormatError, match=r"archive|directory"):
            FORMAT.read(path)


def test_archives_that_are_no_torch_file(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    assert not FORMAT.recognizes(tmp_path / "a.npz")
    with pytest.raises(UnsupportedError):
        detect(tmp_path / "a.npz")
    with pytest.raises(FormatError, match=r"without data\.pkl"):
        FORMAT.read(tmp_path / "a.npz")
    damaged = with_program(b"N.").replace(b"N.", b"M.", 1)
    with pytest.raises(FormatError, match="checksum"):
        opened(tmp_path, damaged)


BASE = saved({"a": torch.randn(2, 3).T, "b": torch.arange(4), "c": torch.zeros(3, dtype=torch.float8_e5m2)})


@given(st.data())
@settings(max_examples=300)
def test_any_damage_ends_in_a_checkpoint_or_an_error(tmp_path_factory, data):
    damaged = bytearray(BASE)
    interesting = [m for s in (b"PK", b"data.pkl", b"\x80\2") for m in range(len(BASE)) if BASE.startswith(s, m)]
    for _ in range(data.draw(st.integers(1, 5))):
        near = data.draw(st.sampled_from(interesting)) + data.draw(st.integers(0, 120))
        at = min(near, len(damaged) - 1)
        match data.draw(st.sampled_from(["set", "insert", "delete"])):
            case "set":
                damaged[at] = data.draw(st.integers(0, 255))
            case "insert":
                damaged[at:at] = data.draw(st.binary(min_size=1, max_size=3))
            case "delete":
                del damaged[at : at + data.draw(st.integers(1, 9))]
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(damaged)
    with suppress(Error):
        content(FORMAT.read(path))


PROGRAM = storage_program()


@given(st.data())
@settings(max_examples=300)
def test_any_program_ends_in_a_value_or_an_error(data):
    program = bytearray(PROGRAM)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(program) - 1))
        program[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"t", b"("])
        )
    with suppress(PickleError):
        load(bytes(program))


def test_nothing_is_written():
    assert not FORMAT.accepts(DENSE["F32"])
    with pytest.raises(PlanError, match="not written"):
        FORMAT.layout(Checkpoint(Naming.HF, "", ()), Path("x.bin"), LayoutOptions())


def test_a_real_model_reads_the_same_from_either_format(tmp_path):
    folder = models.minilm()
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    from_torch = detect(tmp_path).read(tmp_path)
    assert content(from_torch) == content(FORMATS["safetensors"].read(folder))


def overlapping(data):
    """The archive with the directory's entry of the last storage pointing at the first one's bytes."""
    out = bytearray(data)
    at, entries = out.index(b"PK\x01\x02"), {}
    while out[at : at + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack_from("<3H", out, at + 28)
        entries[bytes(out[at + 46 : at + 46 + name]).decode()] = at
        at += 46 + name + extra + comment
    first, last = (entries[next(n for n in entries if n.endswith(f"/data/{k}"))] for k in (0, 1))
    out[last + 42 : last + 46] = out[first + 42 : first + 46]
    return bytes(out)


def test_storages_that_lie_over_each_other_are_refused(tmp_path):
    """Each would be read as its own, so that a small file could promise any number of bytes."""
    data = saved({"a": torch.arange(8.0), "b": torch.arange(8.0) + 8})
    assert len(opened(tmp_path, data).tensors) == 2
    with pytest.raises(FormatError, match="the storages '0' and '1' lie over each other"):
        opened(tmp_path, overlapping(data))


def test_views_that_promise_more_than_there_is_are_refused(tmp_path):
    """A stride of 0 makes terabytes of four bytes; so do many views of one storage."""
    one = torch.ones(1)
    with pytest.raises(FormatError, match=r"its tensors have 4,398,046,511,104 bytes, the file 1,\d\d\d") as raised:
        opened(tmp_path, saved({"a": one.expand(1 << 40)}))
    assert "contiguous" in raised.value.hint
    large = torch.ones(1 << 12)
    with pytest.raises(FormatError, match="they repeat the same numbers"):
        opened(tmp_path, saved({f"a{i}": large for i in range(200)}))


def test_views_that_repeat_numbers_are_told_and_read(tmp_path):
    rows = torch.arange(8.0).expand(16, 8)
    tied = torch.arange(512.0).reshape(64, 8)
    checkpoint = opened(tmp_path, saved({"rows": rows, "embedding": tied, "head": tied}))
    assert checkpoint.notices == ("'rows' repeats numbers: 32 bytes are stored, 512 are read",)
    assert content(checkpoint)["rows"][2] == rows.contiguous().numpy().tobytes()
    assert content(checkpoint)["head"][2] == tied.numpy().tobytes()
