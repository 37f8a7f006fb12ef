"""Pythons of other Debians and of another processor, unpacked into a folder: nothing of this machine is changed.

apt and dpkg fetch and unpack them with a state of their own, from where this machine has its packages; what is
installed into them are PyPI's wheels for that Python and that processor.
"""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.wheels import PIP, ROOT

HERE = platform.machine()
#: What each processor is to Debian.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
NEEDED = ("libgcc-s1", "libstdc++6")
APT = """
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
"""


def missing(machine: str) -> str | None:
    """Why no Python of this processor can be had here."""
    if not shutil.which("apt-get"):
        return "there is no apt-get"
    if machine != HERE:
        return None if shutil.which(f"qemu-{machine}-static") else f"there is no qemu-{machine}-static"
    return None if os.geteuid() == 0 else "only root may chroot"


@dataclass(frozen=True)
class Python:
    """A Python in a Debian of its own."""

    root: Path
    version: str
    machine: str

    def install(self, *packages: object) -> None:
        """Packages of PyPI, or wheels, and what they need."""
        words = ["install", "--only-binary", ":all:", "--no-compile", "--target", self.root / "site"]
        words += ["--python-version", self.version]
        for name in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014"):
            words += ["--platform", f"{name}_{self.machine}"]
        subprocess.run([*PIP, *words, *packages], check=True)

    def run(self, *words: object, **environment: str) -> str:
        """What `python WORDS` prints: with the folder as its root, or, of another processor, emulated beside it."""
        python = Path("usr/bin") / f"python{self.version}"
        if self.machine == HERE:
            command, path = ["chroot", self.root, Path("/", python)], "/site"
        else:
            command = [f"qemu-{self.machine}-static", "-L", self.root, self.root / python]
            path = os.pathsep.join([str(self.root / "site"), str(ROOT)])
        environment = {"PATH": "/usr/sbin:/usr/bin", "HOME": "/tmp", "PYTHONPATH": path, **environment}
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout


def debian(folder: Path, suite: str, version: str, machine: str) -> Python:
    """A suite's Python and the libraries that it needs, unpacked below a folder."""
    for name in ("state/lists/partial", "cache/archives/partial", "root/usr", "root/tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    sources = _apt("get", "indextargets", "--format", "$(REPO_URI)").split()
    source = next(source for source in sources if source.rstrip("/").endswith("/debian"))
    (folder / "sources.list").write_text(f"deb [signed-by={KEYS}] {source} {suite} main\n")
    (folder / "apt.conf").write_text(APT.format(folder=folder, architecture=ARCHITECTURES[machine]))
    packages = [f"python{version}", *NEEDED]
    _apt("get", "update", configuration=folder / "apt.conf")
    options = ("--yes", "--download-only", "--no-install-recommends")
    _apt("get", "install", *options, *packages, configuration=folder / "apt.conf")
    for name in ("lib", "lib64", "bin", "sbin"):
        (folder / "root/usr" / name).mkdir(exist_ok=True)
        (folder / "root" / name).symlink_to(f"usr/{name}")
    for package in (folder / "cache/archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, folder / "root"], check=True)
    return Python(folder / "root", version, machine)


def _apt(tool: str, *words: str, configuration: Path | None = None) -> str:
    environment = {**os.environ, **({"APT_CONFIG": str(configuration)} if configuration else {})}
    done = subprocess.run([f"apt-{tool}", "-qq", *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
