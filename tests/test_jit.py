"""How kernels are compiled and where the compiled code is kept."""

import os
import time

import numpy as np
import pytest

from requant.kernels_cpu import _jit, on_compile
from requant.kernels_cpu._jit import FLOATS, OUT_FLOATS, Kernel


def double(values, out):
    for i in range(values.size):
        out[i] = 2 * values[i]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(_jit, "_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def told():
    names = []
    on_compile.append(names.append)
    yield names
    on_compile.remove(names.append)


def test_a_kernel_is_compiled_once_and_says_so_before(folder, told):
    first, second = Kernel(double, (FLOATS, OUT_FLOATS)), Kernel(double, (FLOATS, OUT_FLOATS))
    assert first.is_cold()
    out = np.zeros(3, np.float32)
    first(np.array([1, 2, 3], np.float32), out)
    assert out.tolist() == [2, 4, 6]
    assert not first.is_cold()
    assert not second.is_cold()  # another process finds it on disk
    second(out, out)
    assert out.tolist() == [4, 8, 12]
    assert told == ["double"]


def test_read_only_and_unaligned_inputs_cost_no_second_compilation(folder):
    kernel = Kernel(double, (FLOATS, OUT_FLOATS))
    held = np.zeros(9, np.uint8)
    odd = held[1:].view(np.float32)
    odd[:] = 1, 2
    odd.flags.writeable = False
    out = np.zeros(2, np.float32)
    kernel(odd, out)
    kernel(np.array([3, 4], np.float32), out)
    assert out.tolist() == [6, 8]
    assert len(kernel._compiled.signatures) == 1


def test_the_folder_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("REQUANT_CACHE_DIR", str(tmp_path))
    assert _jit.cache_folder().parent == tmp_path / "requant"
    assert _jit.cache_folder().is_dir()


def test_a_folder_that_cannot_be_written_is_replaced(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("REQUANT_CACHE_DIR", str(blocked))
    monkeypatch.setattr(_jit.tempfile, "gettempdir", lambda: str(tmp_path))
    assert tmp_path in _jit.cache_folder().parents
    assert _jit.cache_folder().is_dir()


def test_kernels_of_other_versions_go_when_nobody_uses_them(tmp_path):
    for name, days in (("kernels-mine", 99), ("kernels-used", 3), ("kernels-forgotten", 40), ("else", 99)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.nbc").write_bytes(b"code")
        before = time.time() - days * 86400
        os.utime(tmp_path / name, (before, before))
    _jit._prune(tmp_path / "kernels-mine")
    assert {path.name for path in tmp_path.iterdir()} == {"kernels-mine", "kernels-used", "else"}


def test_pieces_of_one_factory_have_names_of_their_own():
    def factory(number, weight, table, inner):
        @_jit.inlined
        def piece():
            return number + weight + table[0] + inner()

        return piece

    @_jit.inlined
    def one():
        return 1

    table, other = np.arange(2000), np.arange(2000)
    other[1000] = 7  # where a printed array has only dots
    made = [
        factory(1, np.float32(0.5), table, one),
        factory(2, np.float32(0.5), table, one),
        factory(1, np.float32(0.25), table, one),
        factory(1, np.float32(0.5), other, one),
        factory(1, np.float32(0.5), table, factory(1, np.float32(0.5), table, one)),
    ]
    names = [piece.py_func.__qualname__ for piece in made]
    assert len(set(names)) == len(names)
    assert factory(1, np.float32(0.5), table, one).py_func.__qualname__ == names[0]
