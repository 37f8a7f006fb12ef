"""The plan's bound on memory holds, measured in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is asked of Linux")

# The most memory that this process has had, in bytes. `ru_maxrss` will not do: a process that was started by
# another, as subprocess does it, begins with what that one had.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return 1024 * int(next(line.split()[1] for line in status if line.startswith("VmHWM:")))
"""

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from requant.codecs import codec_for
from requant.encodings import BF16, BLOCKS
from requant.execution import Options, execute, peak_bytes
from requant.expressions import Stored
from requant.formats import FORMATS
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec, Typed
from requant.layout import LayoutOptions
from requant.plan import Plan, Step

class Noise:
    nbytes = {rows} * 4096 * 2
    def read_into(self, start, out):
        out[...] = np.frombuffer(PATTERN, np.uint8, out.size)

noise = np.random.default_rng(0).standard_normal(4 << 20).astype(np.float32)
PATTERN = (noise.view("<u4") >> 16).astype("<u2").tobytes()
def plan(rows):
    shape = (rows, 4096)
    tensor = Tensor("t", shape, BF16, {{"data": Noise()}})
    step = Step(Stored(tensor), TensorSpec("t", shape, BLOCKS["{label}"]))
    metadata = {{"general.architecture": Typed("str", "llama")}}
    described = Checkpoint(Naming.GGML, "llama", (step.target,), metadata=metadata)
    return Plan((step,), FORMATS["gguf"].layout(described, Path(sys.argv[1]), LayoutOptions()))
execute(plan(4), Options(workers=1))  # the libraries and the compiled kernels are not what is measured
before = peak()
whole = plan({rows})
execute(whole, Options(workers=2), overwrite=True)
print(json.dumps({{"grown": peak() - before, "bound": peak_bytes(whole, 2), "output": whole.layout.nbytes}}))
"""


@pytest.mark.parametrize("label", ["Q4_K", "Q8_0"])
def test_memory_stays_under_the_bound(tmp_path, label):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    program = PEAK + PROGRAM.format(rows=16384, label=label)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out.gguf")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["output"] > 2 * measured["bound"], "the model must be larger than what is allowed"
    assert measured["grown"] <= measured["bound"] + (4 << 20), measured  # 4 MiB for threads and allocator


EIGHT = """
import sys
from pathlib import Path
import numpy as np
from requant.encodings import BF16, BLOCKS
from requant.execution import Options, execute
from requant.expressions import RopeOrder, Stored
from requant.ir import Tensor, TensorSpec
from requant.layout import Layout, OutputFile
from requant.plan import Plan, Step
from tests.random_trees import Weighted

PATTERN = (np.random.default_rng(0).standard_normal(4 << 20).astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
SHAPE = (8192, 4096)
class Noise:
    nbytes = SHAPE[0] * SHAPE[1] * 2
    def read_into(self, start, out):
        out[...] = np.frombuffer(PATTERN, np.uint8, out.size)

inputs = (Stored(Tensor("t", SHAPE, BF16, {"data": Noise()})) for _ in range(8))
step = Step(Weighted(tuple(RopeOrder(one, 64) for one in inputs)), TensorSpec("t", SHAPE, BLOCKS["Q4_K"]))
file = OutputFile("out", b"", step.target.nbytes, {("t", "data"): 0})
execute(Plan((step,), Layout(Path(sys.argv[1]), (file,))), Options(workers=2))
with open("/proc/self/status") as status:
    libraries = 1024 * int(next(line.split()[1] for line in status if line.startswith("RssFile:")))
print(peak() - libraries)
"""


@pytest.mark.slow
def test_a_step_with_eight_inputs_and_two_passes_before_it(tmp_path):
    """Half a gigabyte of inputs: eight tensors in rope order at the same rows, reduced twice.

    All that the process holds but for mapped libraries: of LLVM's, the kernel maps 60 MB more or less by how the file
    lies in its cache. With them it is 238 MB to 284 MB.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for attempt in ("the first compiles kernels, which costs LLVM's memory once on a machine", "what is measured"):
        command = [sys.executable, "-c", PEAK + EIGHT, str(tmp_path / attempt)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 180e6


EXTRACTION = """
import sys
from pathlib import Path
import numpy as np
from requant.adapters.extracted import plan_extraction
from requant.encodings import BF16
from requant.execution import Options, execute
from requant.expressions import Stored
from requant.formats import FORMATS
from requant.ir import Tensor

SHAPE = (512, 1024)
class Noise:
    nbytes = SHAPE[0] * SHAPE[1] * 2
    def __init__(self, seed):
        self.seed = seed
    def read_into(self, start, out):
        values = np.random.default_rng(self.seed).standard_normal(SHAPE, np.float32)
        out[...] = (values.view("<u4") >> 16).astype("<u2").view(np.uint8).reshape(-1)[start : start + out.size]

def model(layers, seed):
    names = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(layers)]
    tensors = (Tensor(name, SHAPE, BF16, {"data": Noise([seed, n])}) for n, name in enumerate(names))
    return {tensor.name: Stored(tensor) for tensor in tensors}

peaks = []
for layers in (4, 160):
    plan = plan_extraction(model(layers, 0), model(layers, 1), 64, FORMATS["safetensors"], Path(sys.argv[1]), "base")
    execute(plan, Options(workers=2), overwrite=True)
    peaks.append(peak())
print(peaks[1] - peaks[0])
"""


@pytest.mark.slow
def test_an_extracted_adapter_takes_no_more_for_more_layers(tmp_path):
    """The factors of 156 layers more take 61 MB, twice that while they are found; the allocator keeps up to 20 MB."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAK + EXTRACTION, str(tmp_path / "adapter")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40e6
