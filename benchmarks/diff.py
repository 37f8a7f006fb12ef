"""The numbers of two models beside the obvious script: `python benchmarks/diff.py [--size 0.5B] [--rounds 5]`.

The other model is the first with noise of a hundredth of each tensor's size. The script loads tensor after tensor of
both with safetensors (torch, since numpy has no BF16), makes float32 numpy arrays of them, and computes the figures
that `requant diff --values --json` prints: relative error, largest error, cosine, SNR, sign flips, changed values. Both
read from the page cache, fresh processes in turns; what they find must agree. Figures are medians of theirs over ours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
#: What one would write.
OBVIOUS = """
import json, sys
from pathlib import Path
import numpy as np
from safetensors import safe_open

def tensors(folder):
    index = json.loads((Path(folder) / "model.safetensors.index.json").read_text())["weight_map"]
    files = {name: safe_open(Path(folder) / name, "pt") for name in set(index.values())}
    return {name: (lambda name=name, file=files[file]: file.get_tensor(name).float().numpy())
            for name, file in index.items()}

first, second = tensors(sys.argv[1]), tensors(sys.argv[2])
found = {}
for name in first:
    a, b = first[name](), second[name]()
    d = b - a
    squares, error = np.sum(a * a, dtype=np.float64), np.sum(d * d, dtype=np.float64)
    found[name] = {
        "relative_error": float(np.sqrt(error / squares)),
        "largest_error": float(np.abs(d).max()),
        "cosine": float(np.sum(a * b, dtype=np.float64) / np.sqrt(squares * np.sum(b * b, dtype=np.float64))),
        "snr_db": float(10 * np.log10(squares / error)),
        "sign_flips": int(np.sum(a * b < 0)),
        "changed": int(np.sum(a != b)),
        "not_finite_a": int(np.sum(~np.isfinite(a))),
        "not_finite_b": int(np.sum(~np.isfinite(b))),
    }
print(json.dumps(found))
"""


def cost(command: list[str]) -> tuple[float, float, int, str]:
    """Wall seconds, processor seconds, peak bytes, and what was printed."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, stdout=out)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        out.seek(0)
        text = out.read().decode()
    if child.returncode not in (0, 1):
        raise SystemExit(f"{command[:4]}: exit code {child.returncode}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, text


def with_noise(source: Path, folder: Path) -> None:
    """The same files, with other numbers."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for path in source.iterdir():
        data = bytearray(path.read_bytes())
        if path.suffix == ".safetensors":
            head = 8 + int.from_bytes(data[:8], "little")
            header = json.loads(data[8:head])
            for one in header.values():
                start, stop = one["data_offsets"]
                bits = np.frombuffer(data, "<u2", (stop - start) // 2, head + start)
                for at in range(0, bits.size, 1 << 22):
                    part = bits[at : at + (1 << 22)]
                    values = (part.astype(np.uint32) << 16).view(np.float32)
                    values += rng.standard_normal(values.size, np.float32) * (0.01 * float(values.std()))
                    part[:] = (values.view(np.uint32) + 0x8000) >> 16
        (folder / path.name).write_bytes(data)


def agree(ours: str, theirs: str) -> None:
    """SystemExit unless both found the same."""
    found = {row["name"]: row["numbers"] for row in json.loads(ours)["tensors"]}
    for name, wanted in json.loads(theirs).items():
        for key, value in wanted.items():
            if not np.isclose(found[name][key], value, rtol=1e-4, atol=1e-9):
                raise SystemExit(f"{name}: {key} is {found[name][key]} here and {value} there")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.5B", help="of the models: tiny, 0.5B, 2B")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--noise", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.noise:
        with_noise(*asked.noise)
        return
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder, "one"), Path(folder, "other")
        subprocess.run([sys.executable, HERE / "synthetic.py", one, asked.size], check=True)
        # in a process of its own: the peak of a child is never below what its parent had when it was started
        subprocess.run([sys.executable, __file__, "--noise", one, other], check=True)
        ours = [sys.executable, "-m", "requant", "diff", str(one), str(other), "--values", "--json"]
        theirs = [sys.executable, "-c", OBVIOUS, str(one), str(other)]
        cost(ours)  # compiles, once on a machine
        rows = []
        for _ in range(asked.rounds):
            mine, script = cost(ours), cost(theirs)
            agree(mine[3], script[3])
            rows.append((script[0] / mine[0], script[1] / mine[1], mine[2] / 1e6, script[2] / 1e6))
    wall, processor, peak, most = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"two models of {asked.size}, {os.cpu_count()} processors, {asked.rounds} rounds; every figure agrees\n")
    print("| | requant | the script |\n| - | - | - |")
    print(f"| time | 1 | {wall:.1f} times as long |")
    print(f"| processor time | 1 | {processor:.1f} times as much |")
    print(f"| peak memory | {peak:.0f} MB | {most:,.0f} MB |")


if __name__ == "__main__":
    main()
