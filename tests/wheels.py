"""The wheel, built from a copy of what is committed."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def copy_sources(folder: Path) -> Path:
    """What a wheel is made of, as it stands here."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists() and not name.startswith(("fixtures/", "tests/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def build_wheel(source: Path, folder: Path) -> Path:
    """Build it."""
    command = [*PIP, "wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run(command, check=True, cwd=folder.parent)
    (wheel,) = folder.glob("requant-*.whl")
    return wheel
