"""The plan's bound on memory holds, measured in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, resource, sys
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
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
whole = plan({rows})
execute(whole, Options(workers=2))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({{"grown": 1024 * (after - before), "bound": peak_bytes(whole, 2), "output": whole.layout.nbytes}}))
"""


@pytest.mark.parametrize("label", ["Q4_K", "Q8_0"])
def test_memory_stays_under_the_bound(tmp_path, label):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    program = PROGRAM.format(rows=16384, label=label)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out.gguf")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["output"] > 2 * measured["bound"], "the model must be larger than what is allowed"
    assert measured["grown"] <= measured["bound"] + (4 << 20), measured  # 4 MiB for threads and allocator
