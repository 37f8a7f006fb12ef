"""`requant recommend`: the sizes are those of conversions, and the advice follows from them."""

import json
from dataclasses import replace

import pytest

from requant import formats
from requant.formats import FORMATS
from requant.operations.convert import Request, plan_conversion
from requant.recipes.measured import MEASURED, WITH_IMPORTANCE
from requant.recommending.devices import DEVICES, device_named
from requant.recommending.offers import AS_IT_IS, Model, best
from requant.recommending.runtimes import RUNTIMES, runtime_for
from tests.command import run
from tests.tiny_folder import write_tiny_folder

TRAINED = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("recommended") / "tiny")


def opened(path):
    return formats.opened(path)[1]


def room_of(name="llama.cpp", memory=10**9, context=512, sequences=1, cache=None):
    device = next(device for device in DEVICES.values() if device.kind in RUNTIMES[name].kinds)
    return RUNTIMES[name].room(device, memory, None, context, sequences, cache)


@pytest.mark.parametrize("name", RUNTIMES)
def test_sizes_are_those_of_conversions(name, folder, tmp_path):
    """Of every recipe that is made without an importance matrix; EXL2 chooses by the weights, within its budget."""
    offers, refused = Model(opened(folder), RUNTIMES[name]).offers(room_of(name))
    assert not refused
    own = {AS_IT_IS} if name != "llama.cpp" else set()
    assert {offer.recipe for offer in offers} == {*RUNTIMES[name].recipes} | own
    target = FORMATS[RUNTIMES[name].format]
    for offer in offers:
        if offer.recipe == AS_IT_IS or offer.importance:
            continue
        plan = plan_conversion(opened(folder), target, tmp_path / "made", Request(offer.recipe))
        nbytes = sum(step.target.nbytes for step in plan.steps)
        slack = 0.02 * nbytes if offer.recipe.startswith("EXL2") else 0
        assert abs(offer.nbytes - nbytes) <= slack, offer.recipe


def test_recipes_that_need_an_importance_matrix_or_gain_by_it_say_so(folder):
    offers, _ = Model(opened(folder), RUNTIMES["llama.cpp"]).offers(room_of())
    needing = {offer.recipe for offer in offers if offer.importance}
    assert {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K_S"} <= needing
    assert not needing & {"Q5_K_M", "Q8_0", "NVFP4", "BF16"}


def test_the_longest_context_is_the_last_that_fits(folder):
    """What is told as the longest fits, and a step more does not, unless the model was trained with no more."""
    about = Model(opened(folder), RUNTIMES["llama.cpp"])
    assert about.trained == TRAINED
    plenty = {offer.recipe: offer for offer in about.offers(room_of())[0]}["Q8_0"]
    assert plenty.longest == TRAINED
    tight = room_of(memory=plenty.nbytes + plenty.buffers + plenty.cache - 1)
    least = {offer.recipe: offer for offer in about.offers(tight)[0]}["Q8_0"]
    assert least.longest == 256
    (again,) = (o for o in about.offers(room_of(memory=tight.memory, context=least.longest))[0] if o.recipe == "Q8_0")
    assert again.total <= tight.memory < least.total


def test_sequences_and_types_of_the_cache_count(folder):
    about = Model(opened(folder), RUNTIMES["llama.cpp"])
    one, four, small = (
        about.offers(room_of(sequences=n, cache=cache))[0][0].cache for n, cache in ((1, None), (4, None), (1, "q8_0"))
    )
    assert four == 4 * one
    assert small == one * 34 // 64
    assert one == 2 * 2 * 512 * 2 * 64 * 2  # layers, keys and values, tokens, heads, their width, bytes


def test_the_least_loss_that_fits_is_recommended(folder):
    about = Model(opened(folder), RUNTIMES["llama.cpp"])
    for memory in (10**9, 2_600_000, 2_400_000):
        room = room_of(memory=memory)
        offers, _ = about.offers(room)
        chosen = best(offers, room)
        fitting = [offer for offer in offers if offer.total <= memory]
        assert chosen is not None and chosen in fitting
        assert all(offer.kl is None or offer.kl >= chosen.kl for offer in fitting)
    assert best(offers, room_of(memory=1000)) is None


def test_where_some_are_not_measured_the_most_bits_are_recommended(folder):
    room = room_of("exllama")
    offers = [replace(offer, kl=None) for offer in Model(opened(folder), room.runtime).offers(room)[0]]
    offers = [offer for offer in offers if offer.recipe != AS_IT_IS]
    some = [replace(offer, kl=9.0) if offer.recipe.startswith("GPTQ") else offer for offer in offers]
    chosen = best(some, room)
    assert chosen is not None and chosen.recipe == "EXL2-8.0"


def test_what_a_runtime_loads_already_is_taken_as_it_is(folder, tmp_path):
    run("convert", folder, tmp_path / "q4.gguf", "--to", "Q4_K_M", "-q")
    said = json.loads(run("recommend", tmp_path / "q4.gguf", "--memory", "1GB", "--json").stdout)
    assert (said["recommended"], said["commands"]) == (AS_IT_IS, [])
    again = run("recommend", tmp_path / "q4.gguf", "--memory", "1GB", "--device", "rtx4090", "--for", "vllm").stdout
    assert "it is quantized already (Q6_K, Q4_K)" in again


def test_every_recipe_of_a_gguf_is_measured():
    every = {(runtime.format, recipe) for runtime in RUNTIMES.values() for recipe in runtime.recipes}
    assert MEASURED.keys() | WITH_IMPORTANCE <= every
    assert MEASURED.keys() >= {one for one in every if one[0] == "gguf"}
    assert all(0 <= loss < 20 for loss in MEASURED.values())


@pytest.mark.parametrize(
    "names",
    [
        ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"),
        ("Q5_0", "Q4_0", "Q2_0"),
        ("IQ4_XS", "IQ3_S", "IQ2_S", "IQ2_XXS", "IQ1_S"),
        ("MLX-8", "MLX-6", "MLX-5", "MLX-4", "MLX-3", "MLX-2"),
        ("EXL2-8.0", "EXL2-6.0", "EXL2-5.0", "EXL2-4.0", "EXL2-3.0", "EXL2-2.5"),
        ("W8A16", "W4A16-32", "W4A16"),
    ],
)
def test_more_bits_of_a_kind_lose_less(names):
    """A table of another model, or one mixed up, would not be so."""
    by_name = {name: loss for (_, name), loss in MEASURED.items()}
    losses = [by_name[name] for name in names if name in by_name]
    assert losses == sorted(losses)


def test_the_commands_run(folder, tmp_path, monkeypatch):
    """What is advised for each runtime is a command that plans."""
    monkeypatch.chdir(tmp_path)
    for name, device in (("llama.cpp", "cpu"), ("vllm", "h100"), ("mlx", "m-series"), ("exllama", "rtx4090")):
        result = run("recommend", folder, "--for", name, "--device", device, "--memory", "2350kB", "--json")
        said = json.loads(result.stdout)
        assert said["runtime"] == name
        for command in said["commands"]:
            assert command.startswith("requant ")
            if "--imatrix" not in command:
                assert run(*command.split()[1:], "--dry-run").exit_code == 0


def test_nothing_fits(folder):
    result = run("recommend", folder, "--memory", "1MB")
    assert result.exit_code == 1
    assert "nothing fits: the smallest, Q1_0, takes" in result.stdout
    assert run("recommend", folder, "--memory", "1MB", "--json").exit_code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "rtx409"], "no device is called 'rtx409'"),
        (["--device", "m-series"], "how much memory m-series has is not said"),
        (["--device", "rtx4090", "--for", "mlx"], "mlx does not run on rtx4090"),
        (["--memory", "12 apples"], "is not a size"),
        (["--memory", "1GB", "--cache", "q3"], "llama.cpp keeps no keys and values in 'q3'"),
    ],
)
def test_what_is_not_known_is_refused(words, message, folder):
    result = run("recommend", folder, *words)
    assert result.exit_code != 0
    assert message in result.stderr


def test_a_model_without_hyperparameters_is_refused(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"a.weight": np.ones((4, 4), np.float32)}, tmp_path / "a.safetensors")
    result = run("recommend", tmp_path / "a.safetensors", "--memory", "1GB")
    assert result.exit_code != 0
    assert "do not say how much memory it takes to run" in result.stderr


def test_a_device_is_found_in_any_case():
    assert device_named("H100") is DEVICES["h100"]
    assert runtime_for(None, DEVICES["cpu"]).name == "llama.cpp"
