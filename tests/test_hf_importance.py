"""An imatrix, which names tensors as GGUF files do, used for Hugging Face folders."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

from requant.errors import PlanError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.importance import Importance, Measured
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from requant.passes.importance import in_hf_names
from requant.plan import Move
from tests.tiny_folder import HIDDEN, LAYERS, MIDDLE, write_tiny_folder
from tests.tiny_models import make

ROLES = {
    "attn_q": ("self_attn.q_proj", HIDDEN),
    "attn_k": ("self_attn.k_proj", HIDDEN),
    "attn_v": ("self_attn.v_proj", HIDDEN),
    "attn_output": ("self_attn.o_proj", HIDDEN),
    "ffn_gate": ("mlp.gate_proj", HIDDEN),
    "ffn_up": ("mlp.up_proj", HIDDEN),
    "ffn_down": ("mlp.down_proj", MIDDLE),
}


def measured(rng, columns, matrices=1):
    sums = rng.exponential(size=(matrices, columns)).astype(np.float32) ** 3
    return Measured(100 * sums, np.full(matrices, 100, np.int64))


@pytest.fixture(scope="module")
def importance():
    rng = np.random.default_rng(2)
    names = [(f"blk.{n}.{role}.weight", columns) for n in range(LAYERS) for role, (_, columns) in ROLES.items()]
    return Importance({name: measured(rng, columns) for name, columns in names})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("importance") / "tiny")


def planned(source, destination, recipe, importance=None, vocabulary=True):
    request = Request(recipe, importance=importance, vocabulary=vocabulary)
    target = FORMATS["gguf" if destination.suffix == ".gguf" else "safetensors"]
    return plan_conversion(detect(source).read(source), target, destination, request)


@pytest.mark.parametrize("through_gguf", [False, True])
def test_every_layer_gets_the_entry_of_its_ggml_name(tmp_path, tiny, importance, through_gguf):
    source = tiny
    if through_gguf:
        source = tmp_path / "tiny.gguf"
        execute(planned(tiny, source, "F16"), Options(workers=1))
    plan = planned(source, tmp_path / "gptq", "GPTQ-4-128", importance)
    steps = {step.target.name: step for step in plan.steps}
    for n in range(LAYERS):
        for role, (module, _) in ROLES.items():
            weights = steps[f"model.layers.{n}.{module}.weight"].importance
            assert np.array_equal(weights, importance.weights(f"blk.{n}.{role}.weight"))
    assert not [loss for loss in plan.losses if loss.kind is LossKind.IMPORTANCE_UNUSED]
    assert steps["model.norm.weight"].importance is None


def test_what_has_no_entry_is_told(tmp_path, tiny, importance):
    name = "blk.1.ffn_down.weight"
    less = Importance({key: entry for key, entry in importance.entries.items() if key != name})
    wrong = Importance({**less.entries, name: measured(np.random.default_rng(0), 7)})
    for given in (less, wrong):
        plan = planned(tiny, tmp_path / "gptq", "GPTQ-4-128", given)
        (loss,) = [loss for loss in plan.losses if loss.kind is LossKind.IMPORTANCE_UNUSED]
        assert loss.subject == "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(("name", "recipe"), [("q.gguf", "Q8_0"), ("q.gguf", "F16"), ("q", "FP8"), ("q", "NF4")])
def test_an_imatrix_that_nothing_heeds_is_told(tmp_path, tiny, importance, name, recipe):
    plan = planned(tiny, tmp_path / name, recipe, importance)
    (loss,) = [loss for loss in plan.losses if loss.kind is LossKind.IMPORTANCE_UNUSED]
    assert loss.subject == "--imatrix"


@pytest.mark.parametrize("recipe", [None, "F16", "BF16"])
def test_an_imatrix_for_plain_numbers_is_refused(tmp_path, tiny, importance, recipe):
    with pytest.raises(PlanError, match="--imatrix"):
        planned(tiny, tmp_path / "dense", recipe, importance)


@pytest.mark.parametrize("through_gguf", [False, True])
def test_experts_get_their_own_rows(tmp_path, through_gguf):
    source = tmp_path / "mixtral"
    make("mixtral", source)
    rng = np.random.default_rng(4)
    whole = detect(source).read(source)
    shape = next(t.shape for t in whole.tensors if t.name.endswith("experts.0.w2.weight"))
    entry = measured(rng, shape[1], 4)
    importance = Importance({"blk.0.ffn_down_exps.weight": entry})
    if through_gguf:
        execute(planned(source, tmp_path / "m.gguf", "F16", vocabulary=False), Options(workers=1))
        source = tmp_path / "m.gguf"
    plan = planned(source, tmp_path / "out", "F32")
    moves = [Move(step.target.name, step.values) for step in plan.steps]
    found = in_hf_names(importance, detect(source).read(source), moves)
    assert len(found.entries) == 4
    for expert in range(4):
        name = f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight"
        assert np.array_equal(found.weights(name)[0], entry.sums[expert] / 100)


def decoded(folder, scratch):
    execute(planned(folder, scratch, "F32"), Options(workers=1))
    return {name: tensor.float().numpy() for name, tensor in load_file(scratch / "model.safetensors").items()}


@pytest.mark.parametrize("recipe", ["GPTQ-4-128", "AWQ-128", "EXL2-4.0"])
def test_columns_that_matter_are_kept_better(tmp_path, tiny, importance, recipe):
    exact = {name: t.float().numpy() for name, t in load_file(tiny / "model.safetensors").items()}
    totals = []
    for name, given in (("plain", None), ("weighed", importance)):
        plan = planned(tiny, tmp_path / name, recipe, given)
        execute(plan, Options(workers=2))
        again = decoded(tmp_path / name, tmp_path / f"{name}-f32")
        total = 0.0
        for n in range(LAYERS):
            for role, (module, _) in ROLES.items():
                tensor = f"model.layers.{n}.{module}.weight"
                weights = importance.weights(f"blk.{n}.{role}.weight")[0]
                total += float(np.square(again[tensor] - exact[tensor]).sum(axis=0) @ weights)
        totals.append(total)
    assert totals[1] < 0.98 * totals[0]


def test_exl2_spends_its_bits_where_errors_of_outputs_count(tmp_path, tiny, importance):
    """Half the sum of E[g²] E[x²] ΔW² is least where it is told what E[g²] is; rows of a layer count alike here."""
    exact = {name: t.float().numpy() for name, t in load_file(tiny / "model.safetensors").items()}
    counts = {name: 10.0 ** (n % 5) for n, name in enumerate(importance.entries)}
    predicted = []
    for name, given in (("alike", importance), ("told", replace(importance, outputs=counts))):
        plan = planned(tiny, tmp_path / name, "EXL2-4.0", given)
        execute(plan, Options(workers=2))
        again = decoded(tmp_path / name, tmp_path / f"{name}-f32")
        total = 0.0
        for n in range(LAYERS):
            for role, (module, _) in ROLES.items():
                tensor, entry = f"model.layers.{n}.{module}.weight", f"blk.{n}.{role}.weight"
                errors = np.square(again[tensor] - exact[tensor]).sum(axis=0)
                total += counts[entry] * float(errors @ importance.weights(entry)[0]) / 2
        predicted.append(total)
    assert predicted[1] < 0.6 * predicted[0]


def test_exl2_goes_by_shares_where_gradients_of_a_layer_are_missing(tmp_path, tiny, importance):
    """Nats of some layers and shares of others are not to be compared."""
    some = dict.fromkeys(list(importance.entries)[1:], 1e6)
    plans = [
        planned(tiny, tmp_path / "exl2", "EXL2-4.0", given) for given in (importance, replace(importance, outputs=some))
    ]
    one, other = ({step.target.name: step.target.encoding for step in plan.steps} for plan in plans)
    assert one == other


def test_exl2_says_what_text_it_was_chosen_by(tmp_path, tiny, importance):
    given = replace(importance, datasets=("c4",), chunks=7, chunk_tokens=512)
    plan = planned(tiny, tmp_path / "exl2", "EXL2-4.0", given)
    execute(plan, Options(workers=1))
    said = json.loads((tmp_path / "exl2" / "config.json").read_text())["quantization_config"]
    assert said["calibration"] == {"rows": 7, "length": 512, "dataset": "c4"}
