"""Whatever bytes the safetensors reader is fed, it ends soon, in little memory, in a checkpoint or an error."""

import json
import struct
import time
from pathlib import Path

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.errors import Error, FormatError
from requant.formats import FORMATS
from requant.formats.safetensors.header import read_header
from tests.broken import cases

CASES = cases("safetensors")
#: Rules of ours that go beyond the reference reader's: messages of what we refuse although it accepts.
ON_PURPOSE = ("two tensors are named", "two values for", "more than")


def reference_accepts(path):
    try:
        with safetensors.safe_open(path, framework="numpy"):
            return True
    except safetensors.SafetensorError:
        return False


def verdict(case, path):
    """Reads the file; says whether the outcome is the one the case promises."""
    if case.error is None:
        read_header(path)
        return
    with pytest.raises(FormatError) as caught:
        read_header(path)
    assert case.error in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("case", [case for case in CASES if not case.huge], ids=lambda case: case.name)
def test_one_rule(case, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(case.content())
    verdict(case, path)
    assert reference_accepts(path) == (case.reference == "accepts")
    agreed = (case.error is None) == (case.reference == "accepts")
    assert agreed or any(words in case.error for words in ON_PURPOSE)


def status(field):
    """Bytes of this process, from Linux."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")]
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is asked of Linux")
@pytest.mark.parametrize("case", [case for case in CASES if case.huge], ids=lambda case: case.name)
def test_a_huge_header_costs_little_time_and_memory(case, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(case.content())
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before = status("VmRSS")
    began = time.process_time()
    verdict(case, path)
    assert time.process_time() - began < 5  # one second on a quiet machine
    assert status("VmHWM") - before < 100e6
    path.unlink()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**65) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NUMBERS = st.integers(0, 8) | st.sampled_from([-1, 2**32, 2**61, 2**63, 2**64 - 1, 2**64, 1.0, True, "1", None])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F4", "U8", "F6_E2M3", "BF16"]) | VALUES,
        "shape": st.lists(NUMBERS, max_size=3) | VALUES,
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | VALUES,
    },
    optional={"x": VALUES},
)
HEADERS = st.dictionaries(
    st.sampled_from(["a", "b", "", "\n", "😀", "__metadata__"]),
    ENTRIES | VALUES | st.dictionaries(st.text(max_size=2), st.text(max_size=2)),
    max_size=3,
)


@given(HEADERS, st.integers(0, 16), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:")]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_header_is_judged_as_by_the_reference_reader(tmp_path_factory, header, nbytes, separators, escape):
    text = json.dumps(header, separators=separators, ensure_ascii=escape).encode(errors="surrogatepass")
    judge(tmp_path_factory, struct.pack("<Q", len(text)) + text + bytes(nbytes))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_is_judged_as_by_the_reference_reader(tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(SMALL)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["set", "insert", "delete", "copy"])):
            case "set":
                content[at] = data.draw(st.integers(0, 255) | st.sampled_from(b'"{}[],:0129eE.-\\ untf'))
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=3))
            case "delete":
                del content[at : at + data.draw(st.integers(1, 5))]
            case "copy":
                content[at:at] = content[data.draw(st.integers(8, 40)) : data.draw(st.integers(8, 80))]
    if data.draw(st.booleans()) and len(content) > 8:  # let the length still fit, so that more reaches the parser
        content[:8] = struct.pack("<Q", max(0, len(content) - 8 - data.draw(st.integers(0, 8))))
    judge(tmp_path_factory, bytes(content))


@given(st.binary(max_size=64))
@settings(max_examples=100, deadline=None)
def test_any_bytes_end_in_a_checkpoint_or_an_error(tmp_path_factory, content):
    judge(tmp_path_factory, content)


SMALL = [case.content() for case in CASES if not case.huge and case.reference == "accepts"]


def judge(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "judged.safetensors"
    path.write_bytes(content)
    FORMATS["safetensors"].recognizes(path)
    try:
        FORMATS["safetensors"].read(path)
    except Error as error:
        if reference_accepts(path):
            assert any(words in str(error) for words in ON_PURPOSE)
    else:
        assert reference_accepts(path)
