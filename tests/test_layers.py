"""Formats move bytes, kernels move numbers, and neither knows the other."""

import ast
import importlib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from requant.expressions import Node

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "kernels_cpu": {
        "requant.kernels_cpu",
        "requant.codecs",
        "requant.dtypes",
        "requant.encodings",
        "requant.errors",
        "requant.temporary",
    },
    "formats": {
        "requant.formats",
        "requant.ir",
        "requant.sources",
        "requant.system",
        "requant.journal",
        "requant.obstacle",
        "requant.layout",
        "requant.importance",
        "requant.hessians",
        "requant.statistics",
        "requant.dtypes",
        "requant.encodings",
        "requant.errors",
        "requant.patterns",
        "requant.json_values",
        "requant.heads",
        "requant.nearest",
        "requant.objections",
        "requant.printable",
    },
    "requant/expressions": {
        "requant.expressions",
        "requant.codecs",
        "requant.encodings",
        "requant.ir",
        "requant.parts",
        "requant.sectioned",
        "requant.sources",
    },
}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_it_may(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith("requant"):
                assert any(module == m or module.startswith(m + ".") for m in MAY_IMPORT[folder]), (path, module)


def modules() -> dict[str, Path]:
    """Every module by its name."""
    found = {}
    for folder in ("requant", "formats", "cli", "kernels_cpu"):
        for path in (ROOT / folder).rglob("*.py"):  # does not follow the links to the other three
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts if folder == "requant" else ("requant", *parts))
            found[name.removesuffix(".__init__")] = path
    return found


#: What a user's call brings in, long after both are imported: a tensor of the public surface reads itself, and what a
#: notebook shows is made when it is shown.
LATE = {
    ("requant.ir", "requant.parts"),
    *((f"requant.{module}", "requant.notebook") for module in ("ir", "plan", "execution")),
}
#: A node can give another of a kind that derives from its own class: this one type is recursive, where methods are.
RECURSIVE = "requant.expressions."


def imports(tree: ast.AST, recursive: bool) -> Iterator[str]:
    """What runs as an import, wherever it stands; what only type checkers see is left out."""
    for node in ast.iter_child_nodes(tree):
        seen_by_checkers = isinstance(node, ast.If) and isinstance(node.test, ast.Name)
        if (seen_by_checkers and node.test.id == "TYPE_CHECKING") or (recursive and isinstance(node, ast.FunctionDef)):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module
        yield from imports(node, recursive)


def test_no_modules_import_each_other_in_a_circle():
    known = modules()
    trees = {name: (ast.parse(path.read_text()), name.startswith(RECURSIVE)) for name, path in known.items()}
    graph = {name: {found for found in imports(*tree) if found in known} for name, tree in trees.items()}
    for name, needs in graph.items():  # a module of a package needs no more of it than it says
        needs.discard(name)
        needs -= {later for module, later in LATE if module == name}
        needs -= {package for package in needs if any(other.startswith(f"{package}.") for other in needs)}
    list(TopologicalSorter(graph).static_order())  # CycleError names the circle


def at_once(tree: ast.AST) -> Iterator[str]:
    """What runs as an import while a module is."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from at_once(node)


def test_every_module_can_be_the_first_to_be_imported():
    """An import runs every package that a module lies in, and may meet one there that has not run to its end."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        parts = [found.split(".") for found in at_once(ast.parse(path.read_text()))]
        run = {".".join(one[:length]) for one in parts for length in range(1, len(one) + 1)}
        graph[name] = {one for one in run if one in known and not f"{name}.".startswith(f"{one}.")}
    list(TopologicalSorter(graph).static_order())  # CycleError names the circle


def kinds_of_node() -> set[str]:
    """The names of all classes of nodes, wherever they are."""
    for name, path in modules().items():
        if "requant.expressions" in path.read_text():
            importlib.import_module(name)
    found, left = set(), [Node]
    while left:
        kind = left.pop()
        if kind.__module__.startswith("requant."):  # and not one of another test
            found.add(kind.__name__)
        left += kind.__subclasses__()
    return found


def told_apart(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Where a class is asked for, by line and name: isinstance and issubclass, `type(x) is`, patterns of `match`."""
    for node in ast.walk(tree):
        asked: list[ast.AST] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = node.args[1:]
        elif isinstance(node, ast.Compare) and "type(" in ast.unparse(node):
            asked = node.comparators
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        for part in (part for one in asked for part in ast.walk(one)):
            if isinstance(part, ast.Name | ast.Attribute):
                yield node.lineno, part.id if isinstance(part, ast.Name) else part.attr


def test_nobody_asks_what_kind_of_node_it_is():
    kinds = kinds_of_node()
    assert {"Stored", "RopeOrder", "Affine"} <= kinds
    for name, path in modules().items():
        found = [line for line, asked in told_apart(ast.parse(path.read_text())) if asked in kinds]
        assert not found, (name, found)


def test_nodes_are_short():
    for path in (ROOT / "requant" / "expressions").glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) < 200, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 40, (path, node.name)
