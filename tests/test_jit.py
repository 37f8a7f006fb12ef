"""How kernels are compiled and where the compiled code is kept."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from requant.kernels_cpu import _jit, cache, kept, on_compile
from requant.kernels_cpu._jit import FLOATS, OUT_FLOATS, Kernel


def double(values, out):
    for i in range(values.size):
        out[i] = 2 * values[i]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(_jit, "folder", lambda: tmp_path)
    monkeypatch.setattr(kept, "folder", lambda: tmp_path)
    kept._kept.cache_clear()
    yield tmp_path
    kept._kept.cache_clear()


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


def test_kernels_that_are_made_at_once_are_kept_in_the_same_folder(folder, monkeypatch):
    """numba reads where it is from a setting of the process, which another thread may just be putting back."""
    seen = []

    def njit(**options):
        def decorate(function):
            for _ in range(2):
                seen.append(_jit.config.CACHE_DIR)
                time.sleep(0.01)

        return decorate

    monkeypatch.setattr(_jit.numba, "njit", njit)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_jit._dispatcher, [double] * 8))
    assert set(seen) == {str(folder)}


def test_the_folder_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("REQUANT_CACHE_DIR", str(tmp_path))
    assert cache.cache_folder().parent == tmp_path / "requant"
    assert cache.cache_folder().is_dir()


def test_a_folder_that_cannot_be_written_is_replaced(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("REQUANT_CACHE_DIR", str(blocked))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    assert tmp_path in cache.cache_folder().parents
    assert cache.cache_folder().is_dir()


def test_a_folder_into_which_others_write_is_not_used(tmp_path, monkeypatch):
    """What lies there is run."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("REQUANT_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    open_to_all = tmp_path / f"requant-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    used = cache.cache_folder()
    assert open_to_all not in used.parents
    assert used.is_dir()
    assert used.parent.stat().st_mode & 0o077 == 0
    open_to_all.chmod(0o700)
    assert open_to_all in cache.cache_folder().parents


def test_kernels_of_other_versions_go_when_nobody_uses_them(tmp_path):
    for name, days in (("kernels-mine", 99), ("kernels-used", 3), ("kernels-forgotten", 40), ("else", 99)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.nbc").write_bytes(b"code")
        before = time.time() - days * 86400
        os.utime(tmp_path / name, (before, before))
    cache.prune(tmp_path / "kernels-mine")
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


def rounded(kernel):
    values, out = np.arange(20, dtype=np.float32) / 7, np.zeros(20, np.float32)
    kernel(values, 1, out)
    return out.tobytes()


def test_machine_code_is_kept_and_does_what_the_kernel_does(folder, told):
    from requant.kernels_cpu.merging import round_values

    compiled = kept.kept("merging", "round_values")
    (path,) = folder.glob("*.object")
    data = path.read_bytes()
    kept._kept.cache_clear()
    linked = kept.kept("merging", "round_values")
    assert told == ["round_values"]  # the second was only linked
    assert rounded(compiled) == rounded(linked) == rounded(round_values)
    with pytest.raises(TypeError, match="float32"):
        linked(np.zeros(20), 1, np.zeros(20, np.float32))
    with pytest.raises(ValueError, match="longer"):
        linked(np.zeros(20, np.float32), 1)
    for damaged in (data[:-1] + bytes([data[-1] ^ 1]), b"[]\n"):
        path.write_bytes(damaged)
        kept._kept.cache_clear()
        assert rounded(kept.kept("merging", "round_values")) == rounded(round_values)
        assert len(path.read_bytes()) > len(data) // 2  # written anew


def test_what_needs_the_compilers_own_runtime_is_not_kept(folder):
    from requant.kernels_cpu.merging import multiply_all

    assert kept.kept("merging", "multiply_all") is multiply_all  # it allocates
    assert not list(folder.glob("*.object"))


def test_a_cache_that_cannot_be_written_is_none(folder, monkeypatch):
    monkeypatch.setattr(kept, "folder", lambda: folder / "missing")
    from requant.kernels_cpu.merging import round_values

    assert rounded(kept.kept("merging", "round_values")) == rounded(round_values)
    assert not (folder / "missing").exists()


def compiled_ahead(folder, name, monkeypatch):
    """A kernel's bitcode, and where it lies in a wheel."""
    ahead = folder / "ahead"
    ahead.mkdir()
    monkeypatch.setattr(kept, "ahead_folder", lambda: ahead)
    from requant.kernels_cpu import merging

    code = kept.bitcode(*getattr(merging, name).lowered())
    code.write(ahead / f"merging.{name}.bitcode")
    return code, ahead / f"merging.{name}.bitcode"


def test_what_was_compiled_ahead_is_not_compiled(folder, told, monkeypatch):
    from requant.kernels_cpu.merging import round_values

    compiled_ahead(folder, "round_values", monkeypatch)
    told.clear()
    assert rounded(kept.kept("merging", "round_values")) == rounded(round_values)
    assert told == []
    assert list(folder.glob("*.object"))


@pytest.mark.parametrize("harm", ["cut", "flipped", "newer", "empty"])
def test_what_was_compiled_ahead_and_is_damaged_is_compiled_here(folder, told, monkeypatch, harm):
    from requant.kernels_cpu.merging import round_values

    code, path = compiled_ahead(folder, "round_values", monkeypatch)
    told.clear()
    data = path.read_bytes()
    if harm == "newer":  # whole, and yet nothing that this LLVM knows
        code._replace(data=b"BC\xc0\xde" + b"\xff" * 400).write(path)
    else:
        middle = len(data) // 2
        path.write_bytes({"cut": data[:-9], "flipped": data[:middle] + b"!" + data[middle + 1 :], "empty": b""}[harm])
    assert rounded(kept.kept("merging", "round_values")) == rounded(round_values)
    assert told == ["round_values"]


def test_code_for_another_processor_is_not_taken(monkeypatch):
    """Nor is that of other sources: both are in the folders' names."""
    for cached in (cache.processor, cache.has):
        cached.cache_clear()
    here, ahead = cache.cache_folder(), cache.ahead_folder()
    monkeypatch.setenv("NUMBA_CPU_NAME", "x86-64")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+sse2")
    for cached in (cache.processor, cache.has):
        cached.cache_clear()
    other = cache.cache_folder()
    monkeypatch.undo()
    for cached in (cache.processor, cache.has):
        cached.cache_clear()
    monkeypatch.setattr(cache, "sources_digest", lambda: "edited")
    assert len({here, other, cache.cache_folder()}) == 3
    assert cache.ahead_folder() != ahead or ahead is None


@pytest.mark.parametrize("beside", [True, False])
def test_a_folder_that_cannot_be_written_is_said_in_a_line(tmp_path, monkeypatch, beside):
    said = []
    monkeypatch.setattr(cache, "on_notice", [said.append])
    (tmp_path / "file").touch()
    monkeypatch.setenv("REQUANT_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / ("" if beside else "file")))
    monkeypatch.setattr(cache, "_of_this_process", lambda name: tmp_path / name)
    cache.cache_folder()
    (line,) = said
    assert str(tmp_path / "file" / "requant") in line
    assert ("kept in" in line) == beside


def test_kept_code_is_had_without_the_compiler():
    script = """if True:
        import sys
        from requant.kernels_cpu.kept import kept
        kept("merging", "add_weighted_halves")
        print("numba" in sys.modules)
    """
    found = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True) for _ in range(2)]
    assert [one.stderr for one in found] == ["", ""]
    assert found[1].stdout == "False\n"
