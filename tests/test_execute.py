"""Execution against plans made by hand: every kind of step, failures, and files that appear whole or not at all."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from requant.codecs import codec_for
from requant.encodings import BF16, BLOCKS, F16, F32, Dense
from requant.errors import Error, FormatError, PlanError
from requant.execution import Options, execute, peak_bytes
from requant.expressions import Affine, Joined, RopeOrder, Slice, Stored, Transposed
from requant.ir import Tensor, TensorSpec
from requant.layout import Layout, OutputFile
from requant.parts import read_values
from requant.plan import Fidelity, Plan, Step
from requant.sources import FileSlice, Memory
from tests.interrupts import heed_interrupts

HEAD = b"HEAD" * 4


def tensor(name, array, encoding=None):
    encoding = encoding or {"float32": F32, "float16": F16, "uint16": BF16}[str(array.dtype)]
    return Tensor(name, array.shape, encoding, {"data": Memory(array.tobytes())})


def step(inputs, shape, encoding, change=lambda node: node):
    """A step of several tensors as one tall matrix, changed."""
    stored = tuple(Stored(tensor) for tensor in inputs)
    values = change(Joined(stored) if len(stored) > 1 else stored[0])
    assert values.shape == shape
    return Step(values, TensorSpec("t", shape, encoding))


def run(folder: Path, one: Step, **options):
    offset = len(HEAD) + 16
    plan = Plan(
        (one,), Layout(folder, (OutputFile("out.bin", HEAD, offset + one.target.nbytes, {("t", "data"): offset}),))
    )
    receipt = execute(plan, Options(workers=2, **options), overwrite=True)
    data = (folder / "out.bin").read_bytes()
    assert data[:offset] == HEAD + bytes(16)
    return data[offset:], receipt


def big(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_copy_keeps_every_byte(tmp_path):
    values = big((3000, 700))
    one = step([tensor("a", values)], values.shape, F32)
    assert one.fidelity is Fidelity.COPY
    assert run(tmp_path, one)[0] == values.tobytes()


def test_inputs_are_read_as_one_tall_matrix(tmp_path):
    parts = [big((n, 640), n) for n in (900, 1, 1700)]
    one = step([tensor(str(i), p) for i, p in enumerate(parts)], (2601, 640), F16)
    assert run(tmp_path, one)[0] == np.concatenate(parts).astype(np.float16).tobytes()


@pytest.mark.parametrize("encoding", [F32, F16], ids=["moved as bytes", "rounded"])
def test_rope_order_is_that_of_the_reference_and_inverts(tmp_path, encoding):
    values = big((16 * 128, 512))
    one = step([tensor("q", values)], values.shape, encoding, lambda node: RopeOrder(node, 16))
    wanted = values.reshape(16, 2, 64, 512).swapaxes(1, 2).reshape(values.shape)
    data = run(tmp_path, one)[0]
    numpy_type = encoding.dtype.numpy
    assert data == wanted.astype(numpy_type).tobytes()
    moved = np.frombuffer(data, numpy_type).reshape(values.shape)
    back = step([tensor("q", moved)], values.shape, encoding, lambda node: RopeOrder(node, 16, inverse=True))
    assert run(tmp_path, back)[0] == values.astype(numpy_type).tobytes()


def test_rows_transpose_and_add(tmp_path):
    values = big((300, 200))
    one = step([tensor("a", values)], (100, 200), F32, lambda node: Slice(node, 50, 150))
    assert run(tmp_path, one)[0] == values[50:150].tobytes()
    one = step([tensor("a", values)], (200, 300), F16, Transposed)
    assert run(tmp_path, one)[0] == values.T.astype(np.float16).tobytes()
    one = step([tensor("a", values)], (300, 200), F32, lambda node: Affine(node, term=1.0))
    assert one.fidelity is Fidelity.ROUND
    assert run(tmp_path, one)[0] == (values + np.float32(1)).tobytes()


def test_scalars_and_empty_tensors(tmp_path):
    assert run(tmp_path, step([tensor("a", np.float32([7]).reshape(()))], (), F32))[0] == np.float32(7).tobytes()
    assert run(tmp_path, step([tensor("a", np.zeros((0, 5), np.float32))], (0, 5), F16))[0] == b""


@pytest.mark.parametrize("target", [F32, F16, BF16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(tmp_path, target, bad):
    values = big((1500, 1000))
    values[1234, 567] = bad
    one = step([tensor("model.norm", values)], values.shape, target)
    with pytest.raises(FormatError, match=r"'model.norm': value \[1234, 567\]") as caught:
        run(tmp_path, one)
    assert "--replace-nan" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    data, receipt = run(tmp_path, one, replace_nan=0.0)
    assert receipt.replaced == {"t": 1}
    values[1234, 567] = 0
    if target is F32:
        assert data == values.tobytes()


def test_what_a_half_cannot_hold_is_named(tmp_path):
    values = big((10, 10))
    values[3, 4] = 65520
    with pytest.raises(PlanError, match=r"value \[3, 4\] is 65520, which F16 cannot hold"):
        run(tmp_path, step([tensor("a", values)], values.shape, F16))
    values[3, 4] = 65519
    assert run(tmp_path, step([tensor("a", values)], values.shape, F16))[0]


def test_the_error_is_measured(tmp_path):
    values = big((700, 900))
    one = step([tensor("a", values)], values.shape, F16)
    _, receipt = run(tmp_path, one, measure=True)
    wanted = np.linalg.norm(values - values.astype(np.float16)) / np.linalg.norm(values)
    assert receipt.errors["t"] == pytest.approx(wanted, rel=1e-4)


def test_a_source_that_shrank_is_an_error_and_the_old_file_stays(tmp_path):
    source = tmp_path / "in.bin"
    source.write_bytes(bytes(4 * 1000 * 1000))
    (tmp_path / "out").mkdir()
    old = tmp_path / "out" / "out.bin"
    old.write_bytes(b"old")
    gone = Tensor("a", (1000, 1000), F32, {"data": FileSlice(source, 0, 4_000_000)})
    os.truncate(source, 3_000_000)
    with pytest.raises(FormatError, match=r"ends .* bytes early"):
        run(tmp_path / "out", step([gone], (1000, 1000), F32))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["out.bin"]
    assert old.read_bytes() == b"old"


def test_a_full_disk_is_found_before_the_work(tmp_path):
    huge = Tensor("a", (1 << 40, 1 << 10), F32, {"data": Memory(b"")})
    with pytest.raises(PlanError, match="the disk has"):
        run(tmp_path / "new" / "folder", step([huge], huge.shape, F32))
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    from requant.output import OutputSet

    layout = Layout(tmp_path, (OutputFile("out.bin", HEAD, len(HEAD)),))
    with OutputSet(layout), pytest.raises(PlanError, match="another process is writing"), OutputSet(layout):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_no_file_under_its_name(tmp_path, number):
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from requant.encodings import F32
        from requant.execution import Options, execute
        from requant.expressions import Stored
        from requant.ir import Tensor, TensorSpec
        from requant.layout import Layout, OutputFile
        from requant.plan import Plan, Step
        class Slow:
            nbytes = 4 << 20
            def read_into(self, start, out):
                out[...] = 0
                print("reading", flush=True)
                time.sleep(0.5)
        shape = (1024, 1024)
        step = Step(Stored(Tensor("a", shape, F32, {"data": Slow()})), TensorSpec("t", shape, F32))
        file = OutputFile("out.bin", b"", 4 << 20, {("t", "data"): 0})
        execute(Plan((step,), Layout(Path(sys.argv[1]), (file,))), Options(workers=1))
    """)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        preexec_fn=heed_interrupts,
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(number)
    assert child.wait(30) != 0
    child.stdout.close()
    left = [path.name for path in tmp_path.iterdir()]
    assert left == (["out.bin.partial"] if number is signal.SIGKILL else [])


def test_the_bound_covers_the_buffers():
    values = Tensor("a", (50_000, 4096), BF16, {"data": Memory(b"")})
    one = step([values], values.shape, F16, lambda node: RopeOrder(node, 50))
    plan = Plan((one,), Layout(Path(), ()))
    assert 2 * 4 * 1000 * 4096 < peak_bytes(plan, 2) < 64 * 1000 * 4096


def test_integers_are_only_copied(tmp_path):
    from requant.encodings import DENSE

    ids = Tensor("ids", (4,), DENSE["I64"], {"data": Memory(np.arange(4).tobytes())})
    assert run(tmp_path, step([ids], (4,), DENSE["I64"]))[0] == np.arange(4).tobytes()
    with pytest.raises(Error):
        run(tmp_path, step([ids], (4,), Dense(F32.dtype)))


def test_codes_of_several_encodings_are_one_run(tmp_path):
    """Blocks with offsets beside blocks with zeros, joined row by row: each keeps its codes and its scales."""
    rng = np.random.default_rng(5)
    stored, wanted = [], []
    for label in ("Q5_1", "Q4_0", "Q4_1"):
        encoding = BLOCKS[label]
        blocks = np.zeros((2, encoding.parts((2, 64))["data"].nbytes // 2), np.uint8)
        codec_for(encoding).encode(rng.standard_normal((2, 64)).astype(np.float32), {"data": blocks})
        stored.append(Tensor(label, (2, 64), encoding, {"data": Memory(blocks.tobytes())}))
        wanted.append(read_values(stored[-1]))
    one = step(stored, (6, 64), BLOCKS["Q5_1"])
    assert one.fidelity is Fidelity.REPACK
    written = Tensor("t", (6, 64), BLOCKS["Q5_1"], {"data": Memory(run(tmp_path, one)[0])})
    assert np.array_equal(read_values(written), np.concatenate(wanted))
