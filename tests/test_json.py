"""`--json`: every command prints one document, of a shape that docs/json.md tells."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from click.testing import CliRunner

from requant.cli.documents import DOCUMENTS
from requant.cli.documents.plans import StepDocument
from requant.cli.documents.shared import Document
from requant.cli.main import COMMANDS, cli
from requant.cli.saying import SCHEMA
from requant.cli.tables import json_text
from requant.verify.check import Against, Answer, Report, Versus
from requant.verify.llama_cpp import ModelInfo
from requant.verify.logits import Difference, Divergence, Measure
from tests.tiny_folder import write_tiny_folder

try:
    import jsonschema
except ImportError:  # of requant[dev]
    jsonschema = None

DOCS = Path(__file__).parents[1] / "docs"
#: The shapes for other programs, made from the classes.
JSON_SCHEMA = DOCS / "schema.json"


FILES = ("shared", "plans", "inspecting", "measuring", "pipelines", "tables", "comparing")


def shapes():
    """Every class of `documents`, in the order of the files."""
    of_files = (one for file in FILES for one in vars(import_module(f"requant.cli.documents.{file}")).values())
    return list(dict.fromkeys(found for found in of_files if is_typeddict(found)))


def fit(value, kind, where="document"):
    """AssertionError unless `value` is of a type of `documents`: every key there, no other."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        assert isinstance(value, dict), where
        hints = get_type_hints(kind, include_extras=True)
        needed = {key for key, hint in hints.items() if get_origin(hint) is not NotRequired}
        assert needed <= set(value) <= set(hints), (where, needed - set(value), set(value) - set(hints))
        for key, item in value.items():
            fit(item, hints[key], f"{where}.{key}")
    elif origin in (Annotated, NotRequired):
        fit(value, inner[0], where)
    elif origin is list:
        assert isinstance(value, list), where
        for item in value:
            fit(item, inner[0], f"{where}[]")
    elif origin is dict:
        assert isinstance(value, dict), where
        for key, item in value.items():
            fit(item, inner[1], f"{where}.{key}")
    elif origin is Literal:
        assert value in inner, (where, value)
    elif inner:  # a union
        assert any(fits(value, one) for one in inner), (where, value)
    elif kind is not Any:
        numbers = (int, float) if kind is float else kind
        assert isinstance(value, numbers) and isinstance(value, bool) <= (kind is bool), (where, value)


def fits(value, kind):
    try:
        fit(value, kind)
    except AssertionError:
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("json")
    write_tiny_folder(root / "tiny")
    run(root, "convert", "tiny", "tiny.gguf", "--to", "Q8_0")
    shutil.copy(DOCS.parent / "fixtures/imatrix/experts.dat", root / "imatrix.dat")
    return root


def run(root, *words):
    """(the one document that is printed, exit code); it has the shape that it says."""
    here = Path.cwd()
    os.chdir(root)
    try:
        result = CliRunner().invoke(cli, [*words, "--json"])
    finally:
        os.chdir(here)
    assert isinstance(result.exception, SystemExit | None), result.exception
    document = json.loads(result.stdout)
    assert document["schema"] == SCHEMA
    fit(document, DOCUMENTS[document["document"]])
    if jsonschema is not None:
        jsonschema.Draft202012Validator(json.loads(JSON_SCHEMA.read_text())).validate(document)
    assert document["command"] == (words[0] if words[0] in COMMANDS else "")
    return document, result.exit_code


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("convert tiny out.gguf --to Q4_K_M --dry-run", "plan"),
        ("convert tiny out.gguf --to Q4_K_M --dry-run --explain", "plan"),
        ("convert tiny.gguf back --to GPTQ --dry-run", "plan"),
        ("convert tiny.gguf back --to BF16 --explain", "receipt"),
        ("convert tiny tiny.gguf --to Q8_0 --force", "receipt"),
        ("convert tiny many-{}.gguf --to Q4_0,Q8_0 --dry-run", "plans"),
        ("convert tiny.gguf many --to GPTQ,MLX-4-32", "receipts"),
        ("requantize tiny.gguf rest-{}.gguf Q4_0,Q4_1", "receipts"),
        ("requantize tiny.gguf less.gguf Q4_0 --explain", "receipt"),
        ("requantize tiny.gguf any.gguf Q4_0 --dry-run", "plan"),
        ("inspect tiny --metadata", "inspection"),
        ("inspect tiny.gguf --metadata", "inspection"),
        ("inspect tiny.gguf --tensors attn_q", "inspection"),
        ("diff tiny tiny", "diff"),
        ("inspect tiny.gguf --values --sort kurtosis --ctx 300", "inspection"),
        ("inspect tiny.gguf --tokenizer --tokens the --template", "inspection"),
        ("inspect imatrix.dat --against tiny.gguf", "inspection"),
        ("inspect .", "inspections"),
        ("extract tiny.gguf q.safetensors --only attn_q", "receipt"),
        ("extract tiny.gguf k.npy --only 0.attn_k --dry-run", "plan"),
        ("edit tiny.gguf --set general.name=other --delete general.type --dry-run", "edit"),
        ("edit tiny.gguf --set general.name=other --reserve 1K -o edited.gguf", "edit"),
        ("types", "types"),
        ("validate tiny --values", "validation"),
        ("validate tiny.gguf", "validation"),
        ("validate --rules", "rules"),
    ],
)
def test_a_command_prints_its_document(folder, words, kind):
    document, code = run(folder, *words.split())
    assert (document["document"], code) == (kind, 0)


@pytest.mark.parametrize("more", ["", "--values", "--values --only attn"])
def test_models_that_differ_are_a_document_and_an_exit_code(folder, more):
    document, code = run(folder, "diff", "tiny", "tiny.gguf", *more.split())
    assert (document["document"], document["equal"], code) == ("diff", False, 1)
    assert ("sums" in document) is bool(more)


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        ("convert nothing out.gguf", "FormatError", 2),
        ("inspect nothing", "FormatError", 2),
        ("convert tiny other.gguf --to Q9", "PlanError", 4),
        ("diff tiny tiny.gguf --only nothing", "PlanError", 4),
        ("diff tiny nothing", "FormatError", 2),
        ("convert tiny tiny.gguf", "PlanError", 4),
        ("check tiny", "PlanError", 4),
        ("types --tensor tiny", "PlanError", 4),
        ("requantize tiny.gguf", "UsageError", 2),
        ("convert tiny out.gguf --threads many", "UsageError", 2),
        ("convert tiny out.gguf --nonsense", "UsageError", 2),
        ("nonsense", "UsageError", 2),
    ],
)
def test_an_error_is_a_document_too(folder, words, kind, code):
    document, ended = run(folder, *words.split())
    error = document["error"]
    assert (document["document"], error["kind"], error["exit_code"]) == ("error", kind, code)
    assert error["message"] and ended == code


def test_what_fail_on_loss_refuses_is_a_plan_with_the_error_in_it(folder):
    words = ["requantize", "tiny.gguf", "out.gguf", "Q4_0", "--dry-run", "--fail-on-loss"]
    document, code = run(folder, *words)
    assert code == 4 and document["document"] == "plan" and document["losses"]
    assert document["error"]["kind"] == "PlanError" and document["error"]["hint"]
    document, code = run(folder, *words[:4], "--fail-on-loss")
    assert code == 4 and document["document"] == "error" and not (folder / "out.gguf").exists()


def test_standard_error_stays_text(folder):
    words = [sys.executable, "-m", "requant", "inspect", "nothing", "--json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == json.loads(done.stdout)["error"]["exit_code"] == 2
    assert done.stderr.startswith("error: nothing: there is no such file")


def test_without_json_nothing_of_an_error_goes_to_standard_output(folder):
    words = [sys.executable, "-m", "requant", "inspect", "nothing"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""


def test_an_interrupted_command_says_so(folder, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("requant.cli.inspected.report", interrupted)
    document, _ = run(folder, "inspect", "tiny.gguf")
    assert document["error"]["kind"] == "Interrupted" and document["error"]["exit_code"] == 128 + signal.SIGINT


@pytest.mark.parametrize("encoder", [False, True])
def test_a_report_of_check_has_the_shape_it_is_documented_with(encoder):
    figure = Measure(1.5, float("nan"))
    divergence = None if encoder else Divergence(figure, 0.5, 0.1, float("inf"), float("nan"), figure, figure)
    against = Against("x", True, None if encoder else figure, divergence, 0.99 if encoder else None)
    info = ModelInfo("x", 1, 2, 3, 4, 5, not encoder, -1, 2, True, None, 0.5)
    answer = None if encoder else Answer("x", "y", False, 3, 4.5)
    report = Report(Path("x"), info, ("warned",), answer, None if encoder else figure, 3, 4, 5.5, 6, against)
    report.failures.append("bad")
    if divergence is not None:
        report.versus = Versus("y", figure, divergence, Difference(figure, figure), 2.5, True)
    envelope = {"schema": SCHEMA, "command": "check", "document": "check"}
    fit(json.loads(json_text(envelope | report.to_json())), DOCUMENTS["check"])


def test_every_command_that_takes_json_prints_through_one_place():
    for name in COMMANDS:
        command = getattr(importlib.import_module(f"requant.cli.{name}"), name)
        assert any("--json" in option.opts for option in command.params) or name == "completion", name
    for path in (DOCS.parent / "cli").glob("*.py"):
        if path.name not in ("tables.py", "saying.py"):
            assert "json_text" not in path.read_text(), path


def test_the_shapes_can_fail(folder):
    told, _ = run(folder, "inspect", "tiny.gguf")
    shape = DOCUMENTS["inspection"]
    assert fits(told, shape)
    for wrong in ({"more": 1}, {"tied_output": 1}, {"parameters": "1"}, {"layers": {"0": {}}}, {"naming": "x"}):
        assert not fits(told | wrong, shape), wrong
    assert not any(fits({key: told[key] for key in told if key != left_out}, shape) for left_out in told)


def table(shape):
    """One class as docs/json.md prints it."""
    rows = []
    own = set(get_type_hints(Document)) if shape is not Document and issubclass_of_document(shape) else set()
    for key, hint in get_type_hints(shape, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        annotated = get_args(hint)[0] if optional else hint
        kind, means = get_args(annotated)
        if key not in own:
            rows.append(f"| `{key}`{' (optional)' if optional else ''} | {worded(kind)} | {means} |")
    return "\n".join(["| key | value | means |", "| - | - | - |", *rows])


def issubclass_of_document(shape):
    return set(get_type_hints(Document)) <= set(get_type_hints(shape))


WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}


def worded(kind):
    """A type in words."""
    if kind in WORDS:
        return WORDS[kind]
    if is_typeddict(kind):
        return f"[{title(kind)}](#{title(kind).replace(' ', '-')})"
    origin, inner = get_origin(kind), get_args(kind)
    if origin is list:
        return f"list of {worded(inner[0])}"
    if origin is dict:
        return f"text → {worded(inner[1])}"
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in inner)
    if inner:
        return " or ".join(worded(one) for one in inner)
    return "anything"


def title(shape):
    """`InspectionDocument` is `inspection`, `OutputFile` is `output file`."""
    name = re.sub(r"(?<=[a-z])Document$", "", shape.__name__)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def about(shape):
    """What a class says of itself; one that is no class cannot."""
    return "One tensor's way from files to a file." if shape is StepDocument else shape.__doc__


def documented():
    blocks = []
    for shape in shapes():
        blocks += [f"## {title(shape)}", about(shape), table(shape)]
    return "\n\n".join(blocks)


def test_the_documented_shapes_are_those_of_the_code():
    if os.environ.get("REQUANT_ACCEPT"):
        marked = re.compile(r"(<!-- shapes -->\n).*(<!-- end -->\n)", re.DOTALL)
        text = (DOCS / "json.md").read_text()
        (DOCS / "json.md").write_text(marked.sub(lambda match: f"{match[1]}\n{documented()}\n\n{match[2]}", text))
    assert documented() in (DOCS / "json.md").read_text()


SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema_of(kind):
    """A type as JSON Schema has it; classes are referred to."""
    if kind in SIMPLE:
        return {"type": SIMPLE[kind]}
    if is_typeddict(kind):
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Annotated, NotRequired):
        means = {"description": inner[1]} if origin is Annotated else {}
        return {**schema_of(inner[0]), **means}
    if origin is list:
        return {"type": "array", "items": schema_of(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(inner[1])}
    if origin is Literal:
        return {"enum": list(inner)}
    return {"anyOf": [schema_of(one) for one in inner]} if inner else {}


def schema_of_class(shape):
    """Keys that are added later are no fault: within a version, there may be more."""
    hints = get_type_hints(shape, include_extras=True)
    needed = [key for key, hint in hints.items() if get_origin(hint) is not NotRequired]
    properties = {key: schema_of(hint) for key, hint in hints.items()}
    return {"type": "object", "description": about(shape), "properties": properties, "required": needed}


def json_schema():
    """What docs/schema.json holds: `document` says which of the shapes a text has."""
    cases = [
        {"if": {"properties": {"document": {"const": name}}}, "then": {"$ref": f"#/$defs/{shape.__name__}"}}
        for name, shape in DOCUMENTS.items()
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"What requant prints with --json, version {SCHEMA}",
        "type": "object",
        "properties": {"document": {"enum": list(DOCUMENTS)}},
        "required": ["schema", "command", "document"],
        "allOf": cases,
        "$defs": {shape.__name__: schema_of_class(shape) for shape in shapes()},
    }


def test_the_schema_is_that_of_the_code():
    if os.environ.get("REQUANT_ACCEPT"):
        JSON_SCHEMA.write_text(json.dumps(json_schema(), indent=1) + "\n")
    assert json.loads(JSON_SCHEMA.read_text()) == json_schema()


def test_the_schema_can_fail(folder):
    if jsonschema is None:
        pytest.skip("jsonschema is not installed: requant[dev]")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    judge = jsonschema.Draft202012Validator(json_schema())
    told, _ = run(folder, "inspect", "tiny.gguf")
    assert judge.is_valid(told) and judge.is_valid(told | {"of_a_later_day": 1})
    for wrong in ({"schema": 1}, {"document": "none"}, {"parameters": "1"}, {"layers": {"0": {}}}, {"naming": "x"}):
        assert not judge.is_valid(told | wrong), wrong
    for left_out in told:
        assert not judge.is_valid({key: value for key, value in told.items() if key != left_out}), left_out


def test_one_word_for_a_thing():
    """Names of files, of what is removed, and of figures are the same in all documents."""
    meanings = {}
    for shape in shapes():
        for key, hint in get_type_hints(shape).items():
            assert re.fullmatch(r"[a-z][a-z0-9_]*", key), (shape, key)
            meanings.setdefault(key, set()).add(worded(hint).removesuffix(" or null"))
    assert not {"obsolete", "removes", "output", "n_vocab", "nbytes_weights"} & meanings.keys()
    for key in ("removed", "losses", "hints", "parameters", "tensor_bytes", "file_bytes", "bits_per_weight"):
        assert len(meanings[key]) == 1, (key, meanings[key])
