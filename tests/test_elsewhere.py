"""The same bytes from other Pythons, and from another processor."""

import filecmp
import shutil
import subprocess
import sys

import pytest

from tests.elsewhere import HERE, debian, missing
from tests.models import smollm2
from tests.processors import digest_of
from tests.wheels import build_wheel, copy_sources

#: Debian 12 has 3.11; no Debian has 3.12.
SUITES = {"3.13": "forky", "3.14": "forky", "3.15": "forky"}
#: Halves, a plain search, one of super-blocks, one by a table: what an emulator does in minutes.
SOME = ("F16", "Q8_0", "Q4_K", "IQ4_NL")


@pytest.mark.slow
@pytest.mark.skipif(HERE == "aarch64", reason="the other tests run on one")
@pytest.mark.skipif(missing("aarch64") is not None, reason=str(missing("aarch64")))
def test_an_aarch64_gives_the_same_bytes(tmp_path):
    python = debian(tmp_path, "bookworm", "3.11", "aarch64")
    python.install("numpy", "numba", "gguf>=0.19", "tqdm", "pyyaml", "click", "regex")
    said = python.run("-m", "tests.processors", *SOME, REQUANT_CACHE_DIR=str(tmp_path / "kernels"))
    assert dict(line.split() for line in said.splitlines()) == {label: digest_of(label) for label in SOME}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(copy_sources(folder / "source"), folder / "built")


@pytest.mark.slow
@pytest.mark.skipif(missing(HERE) is not None, reason=str(missing(HERE)))
@pytest.mark.parametrize("version", SUITES)
def test_the_wheel_converts_with_python(version, wheel, tmp_path):
    """A real model: read, decoded, searched and packed, to the same file as here."""
    python = debian(tmp_path / "debian", SUITES[version], version, HERE)
    python.install(wheel)
    source = tmp_path / "debian/root/model.gguf"
    shutil.copy(smollm2(), source)
    words = ("--to", "Q4_K_M", "--quiet")
    python.run("-m", "requant", "convert", "/model.gguf", "/out.gguf", *words)
    subprocess.run([sys.executable, "-m", "requant", "convert", source, tmp_path / "here.gguf", *words], check=True)
    assert filecmp.cmp(source.with_name("out.gguf"), tmp_path / "here.gguf", shallow=False)
