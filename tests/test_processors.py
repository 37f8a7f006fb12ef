"""Kernels give the same bytes and values on every processor, whatever instructions it has."""

import os
import platform
import subprocess
import sys

import pytest

from requant.kernels_cpu.cache import LEVEL_3
from tests.processors import digest_of

#: Name and features, as LLVM knows them. The first is what every x86-64 has: no F16C, no FMA, no AVX.
PROCESSORS = {
    "least": ("x86-64", "+sse2"),
    "without F16C and FMA": ("x86-64", "+sse2,+ssse3,+sse4.2,+avx,+avx2"),
    "without AVX2": ("x86-64", "+sse2,+ssse3,+sse4.2,+avx,+f16c"),
    "third level": ("x86-64-v3", ",".join(f"+{feature}" for feature in LEVEL_3)),
}
#: Every kind of search, and what looks bytes up in registers.
SOME = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q3_K", "Q6_K", "IQ4_NL"]

on_x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="needs an x86-64")


def digests(labels, folder, name, features):
    environment = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "REQUANT_CACHE_DIR": str(folder)}
    command = [sys.executable, "-m", "tests.processors", *labels]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split() for line in done.stdout.splitlines())


@on_x86
def test_a_processor_without_f16c_rounds_halves_as_any_other(tmp_path):
    found = digests(["F16", "Q8_0"], tmp_path, *PROCESSORS["least"])
    assert found == {label: digest_of(label) for label in ("F16", "Q8_0")}


@on_x86
@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_bytes_and_values_are_the_same_on(processor, tmp_path):
    labels = SOME
    found = digests(labels, tmp_path, *PROCESSORS[processor])
    assert found == {label: digest_of(label) for label in labels}
