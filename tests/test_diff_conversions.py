"""A model beside what a conversion made of it: `diff` shows what the receipt said, and nothing else."""

from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest

from requant.architectures import meaning_of
from requant.comparing.numbers import Numbers
from requant.comparing.settings import Status
from requant.encodings import Dense
from requant.execution import Options, execute
from requant.expressions import Form
from requant.formats import FORMATS, opened
from requant.losses import LossKind
from requant.operations.compare import compare, with_numbers
from requant.operations.convert import Request, plan_conversion
from requant.plan import Fidelity
from tests.tiny_folder import write_tiny_folder
from tests.tiny_models import MODELS, make
from tests.tiny_published import PUBLISHED

#: Constructs that lie between a folder and a GGUF: rows of rope, stacks of experts, interleaved gates, fused
#: projections, norms with one added, transposed matrices, decompressed attention, powers, an encoder, two stacks.
DAILY = ("llama", "qwen3moe", "gptoss", "gemma3", "phi3", "gpt2", "deepseek3", "mamba2", "bert", "t5")
#: The rest of those that transformers has a class for; a variant says nothing here that its family does not.
OTHERS = [name for name in MODELS if "-" not in name and name not in PUBLISHED and name not in DAILY]
#: GGUFs that become a folder of another class, and keys that this class has no word for.
ANOTHER = {
    "qwen2vl": {"general.architecture", "{architecture}.rope.dimension_sections"},
    "qwen3vl": {
        *("general.architecture", "{architecture}.rope.dimension_sections", "{architecture}.n_deepstack_layers"),
    },
}

#: What config.json lists by layers and a GGUF says by a number or by its tensors, so that no row of the table has it.
LISTED = {key: {"mlp_layer_types", "first_k_dense_replace", "indexer_types"} for key in ("deepseek32", "glmdsa")}

#: As what decoders that compute in halves round to.
HALF = 2.0**-11


def converted(source, destination, recipe=None, *, vocabulary=False):
    """(plan, receipt, comparison of both) of a conversion."""
    target = FORMATS["gguf" if destination.suffix == ".gguf" else "safetensors"]
    plan = plan_conversion(opened(source)[1], target, destination, Request(recipe, vocabulary=vocabulary))
    receipt = execute(plan, Options(2, measure=True))
    return plan, receipt, compared(source, destination)


def compared(a, b):
    sides = [(found.name, source) for found, source in (opened(a), opened(b))]
    return with_numbers(compare(*sides), 2)


def as_the_receipt_says(plan, receipt, found, otherwise=frozenset()):
    """AssertionError for a difference that neither the plan nor the receipt tells."""
    assert {row.key for row in found.settings if row.is_difference and row.about != "storage"} == set(otherwise)
    assert not found.files and not found.vocabularies.differ
    assert found.notes == () or otherwise
    dropped = {loss.subject for loss in plan.losses if loss.kind is LossKind.TENSOR_DROPPED}
    assert {loss.subject for _, loss in found.left_out} <= dropped
    steps = {step.target.name: step for step in plan.steps}
    groups = {}  # rows that are parts of one written tensor, together
    for row in found.rows:
        assert row.a is not None and row.b is not None and not row.reshaped and row.numbers is not None, row.name
        names = dict.fromkeys(tensor.name for tensor in row.b.values.leaves())
        if not names.keys() <= steps.keys():  # factors that config.json says in a few words
            assert row.numbers.relative < 1e-6, row.name
            continue
        written = [steps[name] for name in names]
        assert set(row.b.types) == {step.target.encoding.label for step in written}, row.name
        groups.setdefault(written[0].target.name, []).append((row, written))
    for group in groups.values():
        total = reduce(lambda total, row: total.add(row.numbers) or total, (row for row, _ in group), Numbers())
        made = [step for _, written in group for step in written]
        errors = [receipt.errors.get(step.target.name, 0.0) for step in made]
        most = max(HALF if is_of_codes(step) else error for step, error in zip(made, errors, strict=True))
        assert 0.999 * min(errors) - 1e-6 <= total.relative <= 1.001 * most + 1e-6, group[0][0].name
        if all(step.fidelity is not Fidelity.ROUND and not is_of_codes(step) for step in made):
            assert not total.changed, group[0][0].name
    if all(step.fidelity is Fidelity.COPY for step in plan.steps) and not otherwise:
        assert found.equal


def is_of_codes(step):
    """Whether codes and scales are what they were, and numbers only as nearly as the decoders of both round them."""
    return step.form is Form.CODES


def say_nothing_there(source, keys):
    """AssertionError if what is called config.json's alone changes what the GGUF says."""
    bare = {key: value for key, value in source.config.items() if key not in keys}
    if isinstance(bare.get("text_config"), dict):
        bare["text_config"] = {key: value for key, value in bare["text_config"].items() if key not in keys}
    assert meaning_of(replace(source, config=bare)) == meaning_of(source)


def there_and_back(name, folder):
    """A folder to a GGUF as it is and rounded, and a rounded one to a folder."""
    make(name, folder / name)
    plan, receipt, found = converted(folder / name, folder / "plain.gguf")
    as_the_receipt_says(plan, receipt, found)
    alone = {row.key for row in found.settings if row.status is Status.HELD_BY_A}
    say_nothing_there(found.a.said.source, alone - LISTED.get(name, set()))
    as_the_receipt_says(*converted(folder / name, folder / "q8.gguf", "Q8_0"))
    plan, receipt, found = converted(folder / "q8.gguf", folder / "back")
    as_the_receipt_says(plan, receipt, found, ANOTHER.get(name, frozenset()))


@pytest.mark.parametrize("name", DAILY)
def test_families(name, tmp_path):
    there_and_back(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_more_families(name, tmp_path):
    there_and_back(name, tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("diff") / "tiny")


@pytest.mark.parametrize("recipe", [None, "F32", "F16", "BF16", "Q8_0", "Q4_K_M", "IQ4_XS", "MXFP4_MOE"])
def test_a_gguf_with_its_tokenizer(tiny, tmp_path, recipe):
    plan, receipt, found = converted(tiny, tmp_path / "made.gguf", recipe, vocabulary=True)
    as_the_receipt_says(plan, receipt, found)
    assert found.vocabularies.tokens_a == found.vocabularies.tokens_b == 264


FOLDERS = ["F32", "F16", "BF16", "GPTQ", "AWQ", "EXL2-4.0", "NF4", "INT8", "W4A16", "W8A8", "FP8", "NVFP4", "MXFP4"]


@pytest.mark.parametrize("recipe", FOLDERS)
def test_a_folder_made_of_a_folder(tiny, tmp_path, recipe):
    plan, receipt, found = converted(tiny, tmp_path / "made", recipe)
    as_the_receipt_says(plan, receipt, found)
    assert found.vocabularies.same_files


@pytest.mark.parametrize("recipe", [None, "GPTQ", "AWQ"])
def test_a_folder_made_of_a_gguf(tiny, tmp_path, recipe):
    converted(tiny, tmp_path / "from.gguf", "Q8_0", vocabulary=True)
    as_the_receipt_says(*converted(tmp_path / "from.gguf", tmp_path / "made", recipe))


def test_a_gguf_made_of_a_gguf(tiny, tmp_path):
    converted(tiny, tmp_path / "from.gguf", "BF16", vocabulary=True)
    as_the_receipt_says(*converted(tmp_path / "from.gguf", tmp_path / "made.gguf", "Q5_K_S"))


@pytest.mark.parametrize("recipe", ["GPTQ", "AWQ", "NF4", "W4A16"])
def test_a_quantized_folder_beside_a_gguf_of_it(tiny, tmp_path, recipe):
    converted(tiny, tmp_path / "quantized", recipe)
    plan, receipt, found = converted(tmp_path / "quantized", tmp_path / "made.gguf", "F32", vocabulary=True)
    as_the_receipt_says(plan, receipt, found)
    assert found.total.changed == 0, "repacked to F32, every value is what it was"


def test_two_ways_to_one_model_meet(tiny, tmp_path):
    converted(tiny, tmp_path / "direct.gguf", "Q4_0", vocabulary=True)
    converted(tiny, tmp_path / "plain.gguf", "BF16", vocabulary=True)
    converted(tmp_path / "plain.gguf", tmp_path / "second.gguf", "Q4_0")
    found = compared(tmp_path / "direct.gguf", tmp_path / "second.gguf")
    assert found.equal and found.total.changed == 0


def test_every_type_that_is_told_is_one_of_the_files(tiny, tmp_path):
    _, _, found = converted(tiny, tmp_path / "made.gguf", "Q4_K_M", vocabulary=True)
    sides = [{tensor.encoding.label for tensor in opened(path)[1].tensors} for path in (tiny, tmp_path / "made.gguf")]
    assert {row.a.type for row in found.rows} == sides[0] == {"BF16"}
    assert {row.b.type for row in found.rows} == sides[1] > {"Q4_K"}
    assert all(isinstance(tensor.encoding, Dense) for tensor in opened(tiny)[1].tensors)


def test_the_contract_can_fail(tiny, tmp_path):
    plan, receipt, _ = converted(tiny, tmp_path / "made.gguf", "Q8_0", vocabulary=True)
    converted(tiny, tmp_path / "other.gguf", "Q4_0", vocabulary=True)
    with pytest.raises(AssertionError):
        as_the_receipt_says(plan, receipt, compared(tiny, tmp_path / "other.gguf"))
    write_tiny_folder(tmp_path / "another", seed=1)
    with pytest.raises(AssertionError):
        as_the_receipt_says(plan, receipt, compared(Path(tmp_path / "another"), tmp_path / "made.gguf"))
