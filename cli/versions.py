"""`requant --version`: of requant, and of what its results may depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from requant import __version__

#: What requant does not run without, and what it only uses where it is installed.
_NEEDED: Final = ("numpy", "numba", "llvmlite", "gguf", "click", "huggingface-hub")
_EXTRAS: Final = ("xllamacpp", "torch", "transformers", "jinja2", "xxhash", "blake3")


def versions_text() -> str:
    """requant's own on the first line; nothing is imported to know the others."""
    needed = [f"python {platform.python_version()}", *map(_said, _NEEDED)]
    extras = [said for said in map(_said, _EXTRAS) if not said.endswith("missing")]
    lines = [f"requant {__version__}", f"with {', '.join(needed)}"]
    return "\n".join([*lines, *([f"and {', '.join(extras)}"] if extras else [])])


def _said(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} missing"
