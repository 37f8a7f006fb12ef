"""Options as users write them, and their errors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requant.encodings import BF16, BLOCKS, DENSE, F16, F32
from requant.errors import PlanError
from requant.file_types import TITLES
from requant.ir import Typed
from requant.recipes import (
    RECIPES,
    Facts,
    Overrides,
    Wanted,
    choose_encodings,
    encoding_named,
    file_order,
    layers_to_prune,
    override_kv,
    pruned_metadata,
    pruned_names,
    quantized_metadata,
    recipe_named,
    tensor_type,
    tensor_type_file,
)
from requant.recipes.names import dimensions
from requant.recipes.options import compiled
from requant.recipes.table import guessed_file_type

LLAMA = Facts("llama", {"llama.block_count": Typed("u32", 2)})


def test_types_are_named_in_any_case():
    assert encoding_named("q4_K") == BLOCKS["Q4_K"]
    assert encoding_named("bf16") == BF16
    for name in ("q8_1", "i8", "f64", "q4_k_m", ""):
        with pytest.raises(PlanError, match=f"no tensor can be stored as '{name}'"):
            encoding_named(name)


@pytest.mark.parametrize("name", ["", "Q4", "-1", "33", "1024", "99999999999999999999", "٣"])
def test_there_is_no_other_recipe(name):
    with pytest.raises(PlanError, match="there is no quantization type"):
        recipe_named(name)


def test_tensor_types():
    assert tensor_type(r"blk\.(1|2)\.FFN=Q8_0") == (r"blk\.(1|2)\.ffn", BLOCKS["Q8_0"])
    assert tensor_type_file(" a=q8_0\n\tb=f16  ") == (("a", BLOCKS["Q8_0"]), ("b", F16))
    for text in ("", "a", "=q8_0", "a="):
        with pytest.raises(PlanError, match="should be REGEX=TYPE"):
            tensor_type(text)
    with pytest.raises(PlanError, match="no tensor can be stored as 'b=q8_0'"):
        tensor_type("a=b=q8_0")
    with pytest.raises(PlanError, match="is no regular expression"):
        tensor_type("a(=q8_0")


def test_regular_expressions_are_those_of_c_plus_plus():
    assert compiled("[[:digit:]x]+$").search("blk.12")
    assert compiled("[^[:alpha:]]").search("abc") is None
    assert compiled(r"\d").search("٣") is None


def test_brackets_in_a_set_mean_themselves(recwarn):
    """Python warns that it may read them otherwise one day; nobody who converts a model should see that."""
    assert compiled("[[a]x").fullmatch("[x") and compiled("[a&&b]").fullmatch("&") and compiled("[a||b]").fullmatch("|")
    assert not recwarn.list


def test_layers_to_prune():
    assert layers_to_prune("10, 2,2") == (2, 10)
    for text in ("", "a", "1,", "-1", "1-3"):
        with pytest.raises(PlanError, match="layer numbers"):
            layers_to_prune(text)


def test_key_values():
    assert override_kv("a.b=int:-7") == ("a.b", Typed("u32", 7))  # llama-quantize stores the magnitude
    assert override_kv("a=float:0.5") == ("a", Typed("f32", 0.5))
    assert override_kv("a=bool:false") == ("a", Typed("bool", False))
    assert override_kv("a=str:b=int:1") == ("a", Typed("str", "b=int:1"))
    assert override_kv("a=str:") == ("a", Typed("str", ""))
    assert override_kv("a=str:" + "ä" * 99) == ("a", Typed("str", "ä" * 99))  # 127 bytes are llama-quantize's limit
    assert override_kv("llama.context_length=4096") == ("llama.context_length", Typed("u32", 4096))
    assert override_kv("general.name=a:b") == ("general.name", Typed("str", "a:b"))
    assert override_kv("a=str:@x", lambda path: f"text of {path}") == ("a", Typed("str", "text of x"))
    assert override_kv("a=str:@x") == ("a", Typed("str", "@x"))
    for text in ("a", "a=1", "=int:1", "k" * 128 + "=int:1", "a=u8:1"):
        with pytest.raises(PlanError, match="should be KEY=TYPE:VALUE"):
            override_kv(text)
    for text in (
        "a=int:x",
        "a=int:4294967296",
        "a=int:1_0",
        "a=int:٣",
        "a=bool:1",
        "a=float:",
        "a=float:1_0",
    ):
        with pytest.raises(PlanError, match="that can be stored"):
            override_kv(text)


@given(st.text())
def test_whatever_is_written_is_a_value_or_an_error(text):
    for parse in (tensor_type, tensor_type_file, layers_to_prune, override_kv, recipe_named, encoding_named):
        try:
            parse(text)
        except PlanError as error:
            assert str(error)


@given(
    st.lists(st.sampled_from(["a", "blk.0.x", "blk.1.x", "blk.2.x", "blk.3.y", "v.blk.1.x"]), unique=True),
    st.sets(st.integers(0, 4)),
)
def test_pruning_keeps_order_and_numbers_without_gaps(names, layers):
    try:
        renamed = pruned_names(names, sorted(layers))
    except PlanError:
        there = {int(name.split("blk.")[1][0]) for name in names if "blk" in name}
        assert layers >= there or not layers <= there
        return
    assert list(renamed) == [name for name in file_order(names) if name in renamed]
    assert len(set(renamed.values())) == len(renamed)
    numbers = {int(name.split("blk.")[1][0]) for name in renamed.values() if "blk" in name}
    assert numbers == set(range(len(numbers)))


def test_pruning_needs_a_block_count():
    with pytest.raises(PlanError, match=r"llama\.block_count is missing"):
        pruned_metadata({}, "llama", (1,))


def test_dimensions_are_ggmls():
    assert [dimensions(shape) for shape in ((), (5,), (1, 5), (5, 1), (1, 1, 1), (2, 1, 1, 1))] == [1, 1, 1, 2, 1, 4]


def test_tensors_with_nothing_but_a_substitute_are_refused_or_dense():
    def only(recipe, columns):
        return choose_encodings(recipe_named(recipe), [Wanted("blk.0.ffn_up.weight", (8, columns), F32)], LLAMA)[0]

    with pytest.raises(PlanError, match=r"blk\.0\.ffn_up\.weight cannot be Q1_0: rows of 64 are no multiple of 128"):
        only("Q1_0", 64)
    assert (only("NVFP4", 64).encoding, only("NVFP4", 96).encoding) == (BLOCKS["NVFP4"], BLOCKS["MXFP4"])
    choice = only("Q4_K_M", 33)
    assert (choice.encoding, choice.asked) == (F16, BLOCKS["Q4_K"])
    assert choice.loss("t").detail == "F16 instead of Q4_K: rows of 33 are no multiple of 256"


def test_an_option_that_cannot_be_followed_is_told():
    tensors = [Wanted("blk.0.ffn_gate_inp.weight", (8, 256), F32), Wanted("blk.0.attn_norm.weight", (256,), F32)]
    overrides = Overrides(tensor_types=(("blk", BLOCKS["Q8_0"]),))
    router, norm = choose_encodings(recipe_named("Q4_K_M"), tensors, LLAMA, overrides)
    assert router.loss("r").detail == "F32 instead of Q8_0: expert routing"
    assert norm.loss("n") is None


def test_integers_stay():
    (choice,) = choose_encodings(recipe_named("Q4_K_M"), [Wanted("blk.0.map.weight", (8, 256), DENSE["I32"])], LLAMA)
    assert (choice.encoding, choice.reason) == (DENSE["I32"], "integers")


def test_a_tensor_outside_the_models_layers_is_an_error():
    facts = Facts("llama", {"llama.block_count": Typed("u32", 2), "llama.expert_count": Typed("u32", 4)})
    for name in ("blk.2.ffn_down.weight", "ffn_down.weight"):
        with pytest.raises(PlanError, match="should name a layer from 0 to 1"):
            choose_encodings(recipe_named("Q4_K_M"), [Wanted(name, (8, 256), F32)], facts)


@pytest.mark.parametrize("value", [Typed("str", "8"), Typed("i32", -8), Typed("f32", 8.0), Typed("[str]", ["8"])])
def test_metadata_of_the_wrong_type_is_named(value):
    facts = Facts("llama", {"llama.attention.head_count": value})
    with pytest.raises(PlanError, match=r"llama\.attention\.head_count should be a count"):
        choose_encodings(recipe_named("Q4_K_M"), [], facts)


def test_every_recipe_has_a_title():
    assert set(TITLES) == {recipe.file_type for recipe in RECIPES.values()} - {None}


def test_the_file_type_of_a_copy_is_its_own_or_a_guess():
    tensors = [Wanted(f"blk.{i}.ffn_up.weight", (8, 256), encoding) for i, encoding in enumerate((F32, BLOCKS["Q4_K"]))]
    copy = recipe_named("COPY")
    own = quantized_metadata({"general.file_type": Typed("u32", 7)}, copy, tensors)
    assert own["general.file_type"].value == 7
    assert quantized_metadata({}, copy, tensors)["general.file_type"].value == 1024
    assert guessed_file_type([F32, BLOCKS["Q4_K"], BLOCKS["Q4_K"]]) == 1024 + 15
    assert guessed_file_type([]) == 1024
