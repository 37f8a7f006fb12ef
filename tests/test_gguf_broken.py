"""Whatever bytes the GGUF reader is fed end in a checkpoint or in an error: soon, and in little memory."""

import os
import re
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import requant.errors
from requant.encodings import BLOCKS, F16, F32
from requant.errors import Error, FormatError, UnsupportedError
from requant.formats.gguf import Gguf
from requant.formats.gguf.cursor import HEADER_LIMIT, STRING_LIMIT
from requant.ir import Typed
from requant.layout import LayoutOptions
from requant.sources import read
from tests.gguf_files import ARCHITECTURE, checkpoint, from_hex, save

BROKEN = Path(__file__).parents[1] / "fixtures" / "broken" / "gguf"
RULES = [
    *("alignment-24", "alignment-u16", "alignment-zero", "architecture-number", "array-huge"),
    *("array-wraps-around", "arrays-too-deep", "big-endian", "boolean-2", "boolean-array-3"),
    *("counts-cut", "data-missing", "dimension-negative", "empty", "ggjt"),
    *("ggml-type-137", "ggml-type-31", "ggml-type-36", "ggml-type-4", "ggml-type-43"),
    *("ggml-type-9", "ggml-type-minus-1", "git-lfs-pointer", "inner-arrays-huge", "inner-arrays-mixed"),
    *("item-type-unknown", "key-count-huge", "key-count-one-more", "key-cut", "key-empty"),
    *("key-too-long", "key-twice", "magic-cut", "offset-wraps-around", "row-not-whole-blocks"),
    *("safetensors", "scalar-in-blocks", "server-error", "shard-count-string", "shard-misnamed"),
    *("shard-number-missing", "string-huge", "string-in-array-cut", "string-length-cut", "string-length-high-byte"),
    *("strings-huge", "tensor-5-dimensions", "tensor-count-huge", "tensor-cut", "tensor-info-cut"),
    *("tensor-misaligned", "tensor-name-cut", "tensor-name-huge", "tensor-twice", "tensor-wraps-around"),
    *("tensor-wraps-around-empty", "tensors-overlap", "tensors-same-place", "value-cut", "value-type-unknown"),
    *("version-0", "version-1", "version-4", "version-cut", "web-page"),
    *("zeros", "zip"),
]


def read_within_bounds(path):
    """Read in bounded work and 100 MB, whatever comes of it."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = memory("VmRSS")
    start = time.process_time()
    try:
        return Gguf().read(path)
    finally:
        assert time.process_time() - start < 5  # one second on a quiet machine
        assert memory("VmHWM") - before < 100e6


def memory(field):
    """Bytes of this process."""
    [kilobytes] = re.findall(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_its_error(tmp_path, rule):
    source = BROKEN / f"{rule}.hex"
    expected = source.read_text().split("# error: ")[1].splitlines()[0]
    kind, message = expected.split(": ", 1)
    path = tmp_path / f"{rule}.gguf"
    path.write_bytes(from_hex(source))
    with pytest.raises(getattr(requant.errors, kind)) as caught:
        read_within_bounds(path)
    assert type(caught.value).__name__ == kind
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_broken_file_is_tested():
    assert sorted(path.stem for path in BROKEN.iterdir()) == sorted(RULES)


# --- files too large to keep: holes of zeros, which take no space on a disk ---


def sparse(path, head, size):
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def pair(kind, count):
    """The beginning of a file whose only value is an array."""
    return b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, kind, count)


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (pair(0, 1 << 39), UnsupportedError, "a header of more than 64 MiB"),
        (pair(10, 1 << 36), UnsupportedError, "a header of more than 64 MiB"),
        (pair(8, 1 << 36), UnsupportedError, f"strings in arrays to more than {STRING_LIMIT}"),
        (pair(8, STRING_LIMIT), None, ""),
        (pair(9, 1 << 35), UnsupportedError, "inner arrays to more than"),
        (pair(9, 60000), None, ""),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 34, 0), UnsupportedError, "17179869184 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 34), UnsupportedError, "17179869184 key-values"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1000, 0), FormatError, "tensor '' occurs twice"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1000), FormatError, "key 0 is empty"),
        (b"GGUF" + struct.pack("<IQQQ1sIQ", 3, 0, 1, 1, b"a", 8, 1 << 39), UnsupportedError, "a header of more than"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 39), FormatError, "65535 are allowed"),
        (bytes(64), FormatError, "it begins with zeros"),
    ],
    ids=[
        *("bytes", "numbers", "strings", "strings within the limit", "arrays", "arrays within the limit"),
        *("tensor count", "key count", "tensors", "keys", "string", "key", "nothing"),
    ],
)
def test_a_terabyte_of_zeros(tmp_path, head, error, message):
    path = sparse(tmp_path / "a.gguf", head, 1 << 40)
    if error is None:
        read_within_bounds(path)
        return
    with pytest.raises(error, match=message):
        read_within_bounds(path)


def test_the_limits_leave_room_for_real_vocabularies():
    """gemma's: 262,144 tokens, 514,906 merges, and perhaps its tokenizer.json of 33 MB."""
    assert STRING_LIMIT > 4 * (262_144 + 514_906)
    assert HEADER_LIMIT > 16e6 + 33e6


def test_long_strings_between_short_ones_stay_fast(tmp_path):
    """The worst case of walking strings by the lowest byte of their lengths."""
    strings = [text for _ in range(500) for text in ("x" * 256, *["y"] * 300)]
    [path] = save(checkpoint({"s": Typed("[str]", strings)}), tmp_path / "a.gguf")
    assert len(read_within_bounds(path).metadata["s"].value) == len(strings)


def test_a_file_cut_anywhere_says_so(tmp_path):
    [path] = save(SMALL, tmp_path / "a.gguf")
    data = path.read_bytes()
    end = max(tensor.sources["data"].offset + tensor.nbytes for tensor in Gguf().read(path).tensors)
    for size in range(4, end):
        path.write_bytes(data[:size])
        with pytest.raises(FormatError, match=r"missing|the file has \d+ left"):
            Gguf().read(path)
    path.write_bytes(data[:end])
    Gguf().read(path)


def test_a_file_that_shrinks_is_an_error(tmp_path):
    [path] = save(SMALL, tmp_path / "a.gguf")
    source = Gguf().read(path).tensors[-1].sources["data"]
    whole = path.stat().st_size
    os.truncate(path, 100)
    with pytest.raises(FormatError, match=f"it has changed since it was opened: it had {whole} bytes and has 100"):
        read(source)
    # and where it shrinks between the look at it and the last byte
    with pytest.raises(
        FormatError, match=f"ends {source.nbytes} bytes early: it has changed since it was opened"
    ) as caught:
        read(replace(source, identity=None))
    assert caught.value.offset == source.offset


def test_folders_and_absent_files_are_errors(tmp_path):
    for path in (tmp_path, tmp_path / "absent.gguf"):
        with pytest.raises(FormatError, match=str(path)):
            Gguf().read(path)


# --- fuzz ---

SMALL = checkpoint(
    {
        **ARCHITECTURE,
        "general.alignment": Typed("u32", 16),
        "n": Typed("[f32]", [1.0, 2.0]),
        "b": Typed("[bool]", [True, False]),
        "s": Typed("[str]", ["a", "bc" * 200, ""]),
        "a": Typed("[[str]]", [["x"], []]),
        "d": Typed("f64", 0.5),
    },
    [("w", (2, 32), BLOCKS["Q4_0"]), ("v", (3,), F32), ("u", (2, 2), F16)],
)
NUMBERS = st.sampled_from([0, 1, 2, 3, 8, 9, 31, 32, 255, 256, 1 << 31, (1 << 32) - 1, 1 << 61, 1 << 63, (1 << 64) - 1])
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), st.integers(0, 900), st.integers(0, 255)),
        st.tuples(st.just("u32"), st.integers(0, 900), NUMBERS),
        st.tuples(st.just("u64"), st.integers(0, 900), NUMBERS),
        st.tuples(st.just("cut"), st.integers(0, 900), st.integers(1, 40)),
        st.tuples(st.just("insert"), st.integers(0, 900), st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("end"), st.integers(0, 900), st.none()),
    ),
    min_size=1,
    max_size=4,
)


def edited(data, edits):
    data = bytearray(data)
    for edit, at, value in edits:
        at = min(at, len(data))
        match edit:
            case "byte":
                data[at : at + 1] = bytes([value])
            case "u32":
                data[at : at + 4] = struct.pack("<I", value & 0xFFFFFFFF)
            case "u64":
                data[at : at + 8] = struct.pack("<Q", value)
            case "cut":
                del data[at : at + value]
            case "insert":
                data[at:at] = value
            case "end":
                del data[at:]
    return bytes(data)


def reads_or_refuses(path):
    """A checkpoint must hold together: every tensor and every value can be had, and written again."""
    try:
        found = Gguf().read(path)
        for tensor in found.tensors:
            assert read(tensor.sources["data"]).size == tensor.nbytes
        for typed in found.metadata.values():
            if not isinstance(typed.value, str | int | float):
                assert len(list(typed.value)) == len(typed.value)
        Gguf().layout(found, path, LayoutOptions())
    except Error as error:
        assert str(error)


@settings(max_examples=400)
@given(EDITS)
def test_edited_files(tmp_path_factory, edits):
    path = tmp_path_factory.getbasetemp() / "edited.gguf"
    if not SMALL_BYTES:
        SMALL_BYTES.append(save(SMALL, path)[0].read_bytes())
    path.write_bytes(edited(SMALL_BYTES[0], edits))
    reads_or_refuses(path)


SMALL_BYTES = []

U32 = st.integers(0, 14) | NUMBERS.map(lambda number: number & 0xFFFFFFFF)
U64 = st.integers(0, 3) | NUMBERS
TEXT = st.builds(lambda text, wrong: struct.pack("<Q", len(text) if wrong is None else wrong) + text,
                 st.binary(max_size=5), st.none() | st.none() | U64)  # fmt: skip
PIECES = st.one_of(TEXT, U32.map(lambda n: struct.pack("<I", n)), U64.map(lambda n: struct.pack("<Q", n)))


@settings(max_examples=400)
@given(U64, U64, st.lists(st.one_of(PIECES, st.binary(max_size=9)), max_size=30))
def test_random_structure(tmp_path_factory, tensors, pairs, pieces):
    path = tmp_path_factory.getbasetemp() / "random.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + b"".join(pieces))
    reads_or_refuses(path)
