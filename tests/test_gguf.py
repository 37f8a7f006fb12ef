"""GGUF: what is written is read, by us and by PyPI gguf, and the other way round."""

import struct
from itertools import pairwise

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requant.dtypes import DTYPES
from requant.encodings import BF16, BLOCKS, DENSE, F16, F32
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.formats import FORMATS, detect
from requant.formats.gguf import Gguf
from requant.formats.gguf.ggml_types import ENCODINGS, encoding_of, number_of
from requant.ir import Typed
from requant.layout import LayoutOptions
from tests.gguf_files import ARCHITECTURE, checkpoint, contents, save
from tests.models import smollm2

STRINGS = st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))
SCALARS = {
    **{f"{sign}{bits}": st.integers(*span) for bits in (8, 16, 32, 64) for sign, span in (
        ("u", (0, 2**bits - 1)),
        ("i", (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)),
    )},
    "f32": st.floats(width=32),
    "f64": st.floats(),
    "bool": st.booleans(),
    "str": STRINGS,
}  # fmt: skip
KINDS = st.recursive(st.sampled_from(sorted(SCALARS)), lambda kinds: kinds.map("[{}]".format), max_leaves=4)


def values(kind):
    return SCALARS[kind] if kind in SCALARS else st.lists(values(kind[1:-1]), max_size=5)


TYPED = KINDS.flatmap(lambda kind: values(kind).map(lambda value: Typed(kind, value)))
KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@given(st.dictionaries(KEYS.filter(lambda key: not key.startswith(("split.", "general."))), TYPED, max_size=6))
def test_every_kind_of_metadata_comes_back(tmp_path_factory, metadata):
    path = tmp_path_factory.mktemp("kinds") / "a.gguf"
    original = checkpoint(metadata)
    save(original, path)
    copy = Gguf().read(path)
    assert list(copy.metadata) == list(metadata)
    for key, typed in metadata.items():
        if "[[" not in typed.kind:
            assert copy.metadata[key].kind == typed.kind
    written = contents(original)[0]
    assert {key: value for key, (_, value) in contents(copy)[0].items()} == {k: v for k, (_, v) in written.items()}
    first = path.read_bytes()
    save(copy, path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("strings"),
    [
        [],
        [""],
        ["", "", ""],
        ["a" * 255, "b" * 256, "c" * 70000, "", "d"],
        ["x" * 300] * 1000 + ["y"] * 10000 + ["z" * 300, "w"] * 500,
        ["\0", "a\0b"],
        [chr(code) for code in range(128)],
        ["\udce2\udc80", "\udc94", "—"],
        [f"token {i}" for i in range(300_000)],
    ],
    ids=["none", "one empty", "empty", "long", "long and short", "NUL", "all ASCII", "cut UTF-8", "many"],
)
def test_string_arrays(tmp_path, strings):
    [path] = save(checkpoint({"s": Typed("[str]", strings)}), tmp_path / "a.gguf")
    array = Gguf().read(path).metadata["s"].value
    assert len(array) == len(strings)
    assert list(array) == strings
    assert array == strings
    assert array[-3:] == strings[-3:]
    assert [array[i] for i in range(0, len(array), 97)] == strings[::97]
    if strings:
        assert array[-1] == strings[-1]
    with pytest.raises(IndexError):
        array[len(strings)]


def test_arrays_are_sequences(tmp_path):
    metadata = {"n": Typed("[f32]", [0.5, float("nan"), -2.0, 7.0]), "a": Typed("[[u8]]", [[1, 2], [], [3]])}
    [path] = save(checkpoint(metadata), tmp_path / "a.gguf")
    numbers, arrays = (Gguf().read(path).metadata[key].value for key in "na")
    again, _ = (Gguf().read(path).metadata[key].value for key in "na")
    assert numbers == again and numbers != [0.5, 0.5, -2.0, 7.0] and numbers != "text"
    assert type(numbers[0]) is float and numbers[2:] == [-2.0, 7.0] and 7.0 in numbers
    assert np.array_equal(np.float32(numbers), np.float32([0.5, np.nan, -2.0, 7.0]), equal_nan=True)
    assert arrays == [[1, 2], [], [3]] and arrays[1:] == [[], [3]] and arrays[0][1] == 2
    assert repr(numbers) == "<4 f32: 0.5, nan, -2.0, …>" and repr(arrays[2]) == "<1 u8: 3>"


def test_arrays_of_nothing_but_empty_arrays(tmp_path):
    value = [[[]], [[], [1.5]], []]
    [path] = save(checkpoint({"a": Typed("[[[f32]]]", value), "e": Typed("[[str]]", [])}), tmp_path / "a.gguf")
    metadata = Gguf().read(path).metadata
    assert metadata["a"] == Typed("[[[f32]]]", value)
    first = path.read_bytes()
    # An inner list made anew has no type of its own: the kind decides, and gives the same bytes.
    save(checkpoint({key: Typed(typed.kind, list(typed.value)) for key, typed in metadata.items()}), path)
    assert path.read_bytes() == first


SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@given(
    st.lists(st.tuples(st.sampled_from(sorted(ENCODINGS)), SHAPES, st.integers(0, 3)), max_size=6),
    st.sampled_from([1, 2, 8, 16, 32, 64, 4096]),
)
def test_every_type_shape_and_alignment(tmp_path_factory, picks, alignment):
    tensors = []
    for index, (number, shape, blocks) in enumerate(picks):
        encoding = encoding_of(number)
        columns = blocks * getattr(encoding, "values", 1)
        tensors.append((f"t{index}", shape if encoding in DENSE.values() and blocks else (*shape, columns), encoding))
    original = checkpoint({"general.alignment": Typed("u32", alignment), **ARCHITECTURE}, tensors)
    [path] = save(original, tmp_path_factory.mktemp("types") / "a.gguf")
    copy = Gguf().read(path)
    assert contents(copy) == contents(original)
    assert all(tensor.sources["data"].offset % alignment == 0 for tensor in copy.tensors)
    assert copy.architecture == "llama" and copy.path == path


def test_gaps_and_any_order_are_read(tmp_path):
    """The specification allows both; ggml itself does not."""
    infos = [("b", 128), ("a", 0)]
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 0)
    for name, offset in infos:
        head += struct.pack("<Q", 1) + name.encode() + struct.pack("<IQIQ", 1, 4, 0, offset)
    head += bytes(-len(head) % 32)
    (tmp_path / "a.gguf").write_bytes(head + b"A" * 16 + bytes(112) + b"B" * 16)
    tensors = contents(Gguf().read(tmp_path / "a.gguf"))[1]
    assert tensors == [("b", (4,), F32, b"B" * 16), ("a", (4,), F32, b"A" * 16)]


def test_numbers_of_types_are_ggmls():
    unknown_to_peer = {42} - {kind.value for kind in gguf.GGMLQuantizationType}  # Q2_0 is newer than gguf 0.19
    for number in ENCODINGS.keys() - unknown_to_peer:
        encoding = encoding_of(number)
        kind = gguf.GGMLQuantizationType(number)
        assert kind.name == encoding.label
        assert number_of(encoding) == number
        values, nbytes = gguf.GGML_QUANT_SIZES[kind]
        assert encoding.parts((values,))["data"].nbytes == nbytes
    missing = {kind.name for kind in gguf.GGMLQuantizationType} - {encoding.label for encoding in ENCODINGS.values()}
    assert missing == {"Q8_1", "Q8_K"}
    assert {label for label in DTYPES if Gguf().accepts(DENSE[label])} == {
        *("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")
    }


# --- PyPI gguf ---

PEER_KINDS = {
    kind.replace("float", "f").replace("uint", "u").replace("int", "i").replace("string", "str"): number
    for kind, number in ((number.name.lower(), number) for number in gguf.GGUFValueType)
}
PEER_SCALARS = {
    **SCALARS,
    "str": st.text(min_size=1),
    "f32": st.floats(width=32, allow_nan=False),
    "f64": st.floats(allow_nan=False),
}
PEER_TYPED = st.sampled_from(sorted(PEER_SCALARS)).flatmap(
    lambda kind: (
        PEER_SCALARS[kind].map(lambda value: Typed(kind, value))
        | st.lists(PEER_SCALARS[kind], min_size=1, max_size=5).map(lambda value: Typed(f"[{kind}]", value))
    )
)
PEER_METADATA = st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), PEER_TYPED, max_size=5)
TENSORS = [
    ("token_embd.weight", (6, 64), F16),
    ("blk.0.attn_q.weight", (2, 4, 64), BLOCKS["Q8_0"]),
    ("norm", (5,), F32),
]


@given(PEER_METADATA)
def test_the_peer_reads_what_we_write(tmp_path_factory, metadata):
    metadata = {**ARCHITECTURE, **metadata}
    original = checkpoint(metadata, TENSORS)
    [path] = save(original, tmp_path_factory.mktemp("peer") / "a.gguf")
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert fields == {key: typed.value for key, typed in metadata.items()}
    read = [(t.name, tuple(t.shape.tolist())[::-1], t.tensor_type.name, t.data.tobytes()) for t in reader.tensors]
    assert read == [(name, shape, encoding.label, data) for name, shape, encoding, data in contents(original)[1]]


@given(PEER_METADATA)
def test_we_read_what_the_peer_writes_and_write_the_same(tmp_path_factory, metadata):
    folder = tmp_path_factory.mktemp("peer")
    expected = checkpoint({**ARCHITECTURE, **metadata}, TENSORS)
    write_with_peer(folder / "a.gguf", expected)
    copy = Gguf().read(folder / "a.gguf")
    assert contents(copy) == contents(expected)
    [path] = save(copy, folder / "b.gguf")
    assert path.read_bytes() == (folder / "a.gguf").read_bytes()


def write_with_peer(path, checkpoint, **options):
    writer = gguf.GGUFWriter(path, "llama", **options)
    for key, typed in checkpoint.metadata.items():
        if typed.kind in PEER_KINDS:
            writer.add_key_value(key, typed.value, PEER_KINDS[typed.kind])
        else:
            writer.add_key_value(key, typed.value, gguf.GGUFValueType.ARRAY, PEER_KINDS[typed.kind[1:-1]])
    for name, shape, encoding, data in contents(checkpoint)[1]:
        kind = gguf.GGMLQuantizationType(number_of(encoding))
        array = np.frombuffer(data, np.uint8).reshape(*shape[:-1], -1)
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_real_model_comes_back_byte_for_byte(tmp_path):
    """SmolLM2 was written by llama.cpp; our head, slots and length are its own."""
    path = smollm2()
    model = Gguf().read(path)
    assert detect(path) is FORMATS["gguf"]
    assert model.architecture == "llama" and len(model.tensors) == 272
    [file] = Gguf().layout(model, tmp_path / "copy.gguf", LayoutOptions()).files
    with path.open("rb") as stream:
        assert stream.read(len(file.head)) == file.head
    assert file.nbytes == path.stat().st_size
    assert file.slots == {(tensor.name, "data"): tensor.sources["data"].offset for tensor in model.tensors}
    reader = gguf.GGUFReader(path)
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"):
        assert list(model.metadata[key].value[:500]) == reader.fields[key].contents(slice(500))


def test_version_2_is_read_like_version_3(tmp_path):
    original = checkpoint({**ARCHITECTURE, "n": Typed("[u16]", [1, 2])}, TENSORS)
    [path] = save(original, tmp_path / "a.gguf")
    data = bytearray(path.read_bytes())
    data[4] = 2
    path.write_bytes(data)
    assert contents(Gguf().read(path)) == contents(original)


# --- several files ---

METADATA = {**ARCHITECTURE, "general.alignment": Typed("u32", 64), "tokens": Typed("[str]", ["a", "b"])}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shard_tensors": 2}, [2, 1]),
        ({"shard_tensors": 1}, [1, 1, 1]),
        ({"shard_bytes": 768}, [1, 2]),
        ({"shard_bytes": 1}, [1, 1, 1]),
        ({"shard_bytes": 10**9, "shard_tensors": 2}, [2, 1]),
    ],
)
def test_shards(tmp_path, options, expected):
    original = checkpoint(METADATA, TENSORS)
    paths = save(original, tmp_path / "model.gguf", **options)
    count = len(expected)
    assert [path.name for path in paths] == [f"model-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]
    for index, (path, tensors) in enumerate(zip(paths, expected, strict=True)):
        assert contents(Gguf().read(path)) == contents(original)
        reader = gguf.GGUFReader(path)
        assert len(reader.tensors) == tensors
        split = [key for key in reader.fields if key.startswith("split.")]
        # The order gguf-split leaves: it sets the count again at the end.
        assert split == ["split.no", "split.tensors.count", "split.count"]
        assert [reader.fields[key].contents() for key in split] == [index, 3, count]
        assert [reader.fields[key].types[0].name for key in split] == ["UINT16", "INT32", "UINT16"]
        assert ("tokens" in reader.fields) == (index == 0)
        assert reader.alignment == 64
        assert all(tensor.data_offset % 64 == 0 for tensor in reader.tensors)
    save(Gguf().read(paths[-1]), tmp_path / "whole.gguf")
    assert contents(Gguf().read(tmp_path / "whole.gguf")) == contents(original)


def test_the_peers_shards_are_read(tmp_path):
    original = checkpoint(ARCHITECTURE, TENSORS)
    write_with_peer(tmp_path / "model.gguf", original, split_max_tensors=1, small_first_shard=True)
    paths = sorted(tmp_path.glob("*.gguf"))
    assert [path.name for path in paths] == [f"model-{i:05d}-of-00004.gguf" for i in range(1, 5)]
    assert contents(Gguf().read(paths[2])) == contents(original)


def test_one_shard_is_a_plain_file(tmp_path):
    original = checkpoint(ARCHITECTURE, TENSORS)
    [path] = save(original, tmp_path / "model.gguf", shard_tensors=3)
    assert path.name == "model.gguf"
    assert path.read_bytes() == save(original, tmp_path / "other.gguf")[0].read_bytes()


def test_a_destination_named_like_a_shard_gives_its_prefix(tmp_path):
    paths = save(checkpoint(ARCHITECTURE, TENSORS), tmp_path / "m-00001-of-00009.gguf", shard_tensors=2)
    assert [path.name for path in paths] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]


@pytest.fixture
def shards(tmp_path):
    return save(checkpoint(METADATA, TENSORS), tmp_path / "m.gguf", shard_tensors=1)


def test_a_missing_shard_is_named(shards):
    shards[1].unlink()
    with pytest.raises(FormatError, match=r"m-00002-of-00003.gguf: this file is missing"):
        Gguf().read(shards[0])


def test_swapped_shards_are_found(shards):
    first, last = shards[1].read_bytes(), shards[2].read_bytes()
    shards[1].write_bytes(last)
    shards[2].write_bytes(first)
    with pytest.raises(FormatError, match=r"m-00002-of-00003.gguf: the file does not say that it is number 2 of 3"):
        Gguf().read(shards[0])


def test_shards_of_different_models_are_found(shards, tmp_path):
    (tmp_path / "other").mkdir()
    four = save(checkpoint(METADATA, [*TENSORS, ("more", (2,), BF16)]), tmp_path / "other" / "m.gguf", shard_tensors=2)
    data = four[1].read_bytes().replace(struct.pack("<IH", 2, 2), struct.pack("<IH", 2, 3))  # split.count
    shards[1].write_bytes(data)
    with pytest.raises(FormatError, match=r"split\.tensors\.count is 3, and the 3 files have 4 tensors"):
        Gguf().read(shards[0])


def test_a_tensor_in_two_shards_is_found(tmp_path):
    paths = save(checkpoint(METADATA, [("aa", (8,), F32), ("bb", (8,), F32)]), tmp_path / "m.gguf", shard_tensors=1)
    paths[1].write_bytes(paths[1].read_bytes().replace(b"bb", b"aa", 1))
    with pytest.raises(FormatError, match="tensor 'aa' is also in"):
        Gguf().read(paths[0])


def test_shards_that_contradict_each_other_are_found(shards):
    data = shards[2].read_bytes()
    shards[2].write_bytes(data.replace(struct.pack("<II", 4, 64), struct.pack("<II", 4, 32)))
    with pytest.raises(FormatError, match=r"'general.alignment' differs"):
        Gguf().read(shards[0])


# --- what cannot be written ---


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"a": Typed("u8", 256)}, [], "metadata 'a': '256' is not a u8"),
        ({"a": Typed("u32", "x")}, [], "metadata 'a': 'x' is not a u32"),
        ({"a": Typed("str", 5)}, [], "metadata 'a': '5' is not a str"),
        ({"a": Typed("bool", 1)}, [], "metadata 'a': '1' is not a bool"),
        ({"a": Typed("f32", 1e300)}, [], "is not a f32"),
        ({"a": Typed("[u8]", [1, -1])}, [], r"metadata 'a': .* is not a \[u8\]"),
        ({"a": Typed("[u8]", 7)}, [], "an array needs a sequence"),
        ({"a": Typed("[str]", ["x", 7])}, [], "a string is needed"),
        ({"a": Typed("[[u8]]", [[1], 2])}, [], "an array needs a sequence"),
        ({"a": Typed("u128", 1)}, [], "'u128' is no GGUF type"),
        ({"a": Typed("[[tensor]]", [])}, [], "is no GGUF type"),
        ({"a": Typed("str", "\ud800")}, [], "cannot be stored as UTF-8"),
        ({"": Typed("u8", 1)}, [], "must have 1 to 65535 bytes"),
        ({"general.alignment": Typed("u32", 24)}, [], "power of two"),
        ({}, [("x" * 64, (1,), F32)], "its name has 64 bytes; llama.cpp reads 63 at most"),
        ({}, [("é" * 32, (1,), F32)], "its name has 64 bytes"),
        ({}, [("w", (1,), F32), ("w", (1,), F32)], "'w' occurs twice"),
        ({}, [("a\0b", (1,), F32)], "ends a name at its first NUL"),
        ({"general.alignment": Typed("u32", 1 << 31)}, [], "at most 16777216"),
        ({"\udfff": Typed("u8", 1)}, [], "cannot be stored as UTF-8"),
        ({}, [("w", (1, 1, 1, 1, 1), F32)], "ggml has 4 dimensions"),
        ({}, [("w", (1,), DENSE["U16"])], "GGUF cannot store U16"),
        ({}, [("w", (4, 2), DENSE["F8_E4M3"])], "GGUF cannot store F8_E4M3"),
    ],
)
def test_what_no_file_can_hold_fails_while_planning(tmp_path, metadata, tensors, message):
    planned = checkpoint(metadata, tensors)
    with pytest.raises(PlanError, match=message):
        Gguf().layout(planned, tmp_path / "a.gguf", LayoutOptions())


def test_too_many_shards_fail_while_planning(tmp_path):
    planned = checkpoint({}, [(f"t{i}", (), F32) for i in range(65536)])
    with pytest.raises(PlanError, match="65536 files"):
        Gguf().layout(planned, tmp_path / "a.gguf", LayoutOptions(shard_tensors=1))
    with pytest.raises(PlanError, match="cannot hold anything"):
        Gguf().layout(planned, tmp_path / "a.gguf", LayoutOptions(shard_tensors=0))


def test_a_name_of_63_bytes_is_written(tmp_path):
    [path] = save(checkpoint({}, [("x" * 63, (1,), F32)]), tmp_path / "a.gguf")
    assert Gguf().read(path).tensors[0].name == "x" * 63


# --- detection ---


def test_detection_goes_by_content_then_by_name(tmp_path):
    [path] = save(checkpoint(ARCHITECTURE), tmp_path / "model.bin")
    assert detect(path) is FORMATS["gguf"]
    page = tmp_path / "page.gguf"
    page.write_text("<html>")
    assert not Gguf().recognizes(page) and not Gguf().recognizes(tmp_path)
    with pytest.raises(FormatError, match="a web page"):
        detect(page).read(page)
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(UnsupportedError, match=r"x\.txt: no format that is known"):
        detect(tmp_path / "x.txt")
    with pytest.raises(FormatError, match="no such file"):
        detect(tmp_path / "nothing.gguf")


def test_slots_follow_each_other(tmp_path):
    planned = checkpoint(ARCHITECTURE, TENSORS)
    [file] = Gguf().layout(planned, tmp_path / "a.gguf", LayoutOptions()).files
    starts = [*file.slots.values(), file.nbytes]
    sizes = [tensor.nbytes for tensor in planned.tensors]
    assert starts[0] == len(file.head)
    assert [after - before for before, after in pairwise(starts)] == [size + -size % 32 for size in sizes]
