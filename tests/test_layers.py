"""Formats move bytes, kernels move numbers, and neither knows the other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "kernels_cpu": {"requant.kernels_cpu", "requant.codecs", "requant.dtypes", "requant.encodings", "requant.errors"},
    "formats": {
        "requant.formats",
        "requant.ir",
        "requant.sources",
        "requant.layout",
        "requant.importance",
        "requant.dtypes",
        "requant.encodings",
        "requant.errors",
    },
}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_it_may(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith("requant"):
                assert any(module == m or module.startswith(m + ".") for m in MAY_IMPORT[folder]), (path, module)
