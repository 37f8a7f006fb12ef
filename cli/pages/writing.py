"""Pages become files: the template filled in, with the scripts and the plotting library inside.

Strings of models reach a page in two ways: through jinja2, which escapes them, and as data of the scripts, packed and
in base64, which has no character that HTML knows. The scripts put them in as text, never as markup. Beyond that the
page's own policy allows only the scripts and styles whose hashes it names, and no connection to anywhere.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.metadata
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from requant import __version__
from requant.cli import interrupts
from requant.cli.pages.content import Page
from requant.cli.tables import finite, size
from requant.errors import PlanError
from requant.layout import Layout, OutputFile
from requant.output import OutputSet
from requant.printable import printable

#: What a page begins with; a file that begins so may be replaced by another page.
_MAGIC: Final = b'<!doctype html>\n<html lang="en" data-made-by="requant">\n'
_HERE: Final = Path(__file__).parent
#: In the order in which they build on each other.
_SCRIPTS: Final = ("data.js", "table.js", "detail.js", "layers.js", "sizes.js", "charts.js", "start.js")
_PACKAGE: Final = "uplot-python"
_NEEDED: Final = 'pip install "requant[html]"'


def check_page(path: Path) -> None:
    """Raises `PlanError` if no page can be written there: before the work that it is to tell of."""
    _library()
    _template()
    if path.is_dir():
        raise PlanError(f"--html: {path} is a folder", hint="name a file, such as page.html")
    if path.exists() and not (path.is_file() and _begins_as_page(path)):
        raise PlanError(f"--html: {path} exists, and is no page of requant's", hint="choose another name")


def _begins_as_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def write_page(path: Path, page: Page) -> str:
    """Write it, whole or not at all; returns a line that says so. Raises `PlanError`, of the disk above all."""
    text = rendered(page)
    layout = Layout(path.parent, (OutputFile(path.name, text, len(text)),))
    with interrupts.cleaning_up(), OutputSet(layout) as files:
        files.publish()
    return f"{printable(str(path), None)}: page of {size(len(text))}"


def rendered(page: Page) -> bytes:
    """The bytes of the page."""
    library, library_style = _library()
    style = "\n".join([library_style, _own("page.css")])
    script = "\n".join([library, *(_own(f"scripts/{name}") for name in _SCRIPTS)])
    body: str = _template().render(
        page=page,
        style=style,
        script=script,
        policy=_policy(style, script),
        data=_packed(page.tensors.to_json()) if page.tensors else "",
        version=__version__,
    )
    return _MAGIC + body.encode()


def _policy(style: str, script: str) -> str:
    """What a browser may do with the page: run this script, apply this style, and nothing else."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    return (
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'".format(
            *hashes
        )
    )


def _packed(value: object) -> str:
    """JSON, gzip, base64: a table of 30,000 tensors has megabytes, and a browser unpacks it by itself."""
    text = json.dumps(finite(value), separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _own(name: str) -> str:
    return (_HERE / name).read_text("utf-8")


@cache
def _library() -> tuple[str, str]:
    """Script and style of uPlot, out of the package that carries it; its Python is not imported."""
    try:
        package = importlib.metadata.distribution(_PACKAGE)
        found = (package.locate_file(f"uplot/static/uPlot.{end}") for end in ("iife.js", "min.css"))
        script, style = (Path(str(path)).read_text("utf-8") for path in found)
    except (importlib.metadata.PackageNotFoundError, FileNotFoundError):
        raise PlanError(f"--html needs the package {_PACKAGE}", hint=_NEEDED) from None
    if "</script" in script.lower() or "</style" in style.lower():
        raise PlanError(f"--html: uPlot as {_PACKAGE} {package.version} has it cannot stand in a page", hint=_NEEDED)
    return script, style


@cache
def _template() -> Any:
    try:
        import jinja2
    except ImportError:
        raise PlanError("--html needs the package jinja2", hint=_NEEDED) from None
    from markupsafe import Markup

    def finalize(value: object) -> object:
        """Of text, nothing that is not seen: whatever the template puts in passes here before it is escaped."""
        return value if isinstance(value, Markup) else _visible(str(value))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["first_line"] = lambda text: printable(text.strip().partition("\n")[0], 80)
    return environment.get_template("page.html")


def _visible(text: str) -> str:
    return "\n".join(printable(line, None) for line in text.splitlines())
