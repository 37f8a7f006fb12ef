"""Planning as lists of passes: every list in an order that works, every pass a value that can be made alone."""

import os
import re
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest

from requant.errors import UnsupportedError
from requant.formats import FORMATS, detect
from requant.ir import Checkpoint, Naming
from requant.operations import convert, requantize
from requant.passes import Fact
from requant.passes.claim import Claim
from requant.passes.names import OwnNames
from requant.passes.passing import check, does, made
from requant.passes.scheme import Plain
from requant.passes.tokenizer import TokenizerToGgml
from requant.passes.translation import Family, Hyperparameters, Names
from requant.plan import unchanged
from requant.schemes import SCHEMES
from tests.tiny_folder import write_tiny_folder

TO_FOLDER = [None, "BF16", *SCHEMES]
LISTS = [
    *(
        (convert.hf_to_ggml, convert.Request(recipe, prune=prune))
        for recipe in (None, "Q4_K_M")
        for prune in ((), (1,))
    ),
    *((convert.projector_to_ggml, convert.Request(recipe)) for recipe in (None, "F16")),
    *((convert.ggml_to_ggml, convert.Request("Q4_K_M", prune=prune)) for prune in ((), (1,))),
    (convert.ggml_to_ggml, convert.Request()),
    *((convert.ggml_to_hf, convert.Request(recipe)) for recipe in TO_FOLDER),
    (convert.ggml_to_hf, convert.Request(mmproj=Checkpoint(Naming.GGML, "clip", ()))),
    *((convert.hf_to_hf, convert.Request(recipe)) for recipe in TO_FOLDER),
    *((requantize.requantized, requantize.Request("Q4_K_M", prune=prune)) for prune in ((), (1,))),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = write_tiny_folder(tmp_path_factory.mktemp("passes") / "tiny")
    return detect(folder).read(folder)


@pytest.mark.parametrize(("listed", "request_"), LISTS)
def test_every_list_has_what_each_pass_needs_and_claims_first(listed, request_):
    target = FORMATS["safetensors" if "to_hf" in listed.__name__ else "gguf"]
    passes = listed(request_, target, Path("out"))
    check(passes)
    assert isinstance(passes[0], Claim)
    renames = listed.__name__ in ("hf_to_ggml", "ggml_to_hf", "projector_to_ggml")
    ensured = set().union(*(one.ensures for one in passes))
    assert set(Fact) - ensured == (set() if renames else {Fact.RECOGNIZED, Fact.SIZED, Fact.COMPLETED})
    for one in passes:
        assert 0 < len(does(one)) <= 72 and one.name == one.name.lower()
        assert one == replace(one) and not hasattr(one, "__dict__")
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            setattr(one, fields(one)[0].name if fields(one) else "anything", None)


@pytest.mark.parametrize("missing", range(4))
def test_a_list_that_lacks_what_a_pass_needs_is_refused(missing):
    passes = [Claim(Naming.HF), OwnNames(), Plain(), *convert.hf_to_hf(convert.Request(), None, None)[3:]]
    check(passes)
    del passes[missing]
    with pytest.raises(ValueError, match="needs"):
        check(passes)


def test_a_pass_is_made_alone(tiny):
    said = Family(Naming.GGML)(unchanged(tiny))
    assert said.architecture == "llama" and said.moves == unchanged(tiny).moves
    said = Hyperparameters(Naming.GGML)(said)
    assert said.metadata["llama.block_count"].value == 2 and not said.config
    said = Names(Naming.GGML)(said)
    assert said.moves[0].name == "token_embd.weight"
    without = TokenizerToGgml(vocabulary=False)(said)
    assert without.metadata["tokenizer.ggml.model"].value == "none"
    assert without.moves is said.moves


def test_the_trail_says_what_each_pass_was_given_and_made(tiny):
    passes = convert.hf_to_ggml(convert.Request(), None, None)[:5]
    said, trail = made(passes, unchanged(tiny))
    assert [passed.name for passed in trail] == ["claim", "unwrap", "family", "hyperparameters", "names"]
    assert trail[4].before.moves[0].name == "model.embed_tokens.weight"
    assert trail[4].after is said and said.moves[0].name == "token_embd.weight"


def test_what_nobody_knows_stops_at_the_claim(tiny):
    bare = unchanged(replace(tiny, config={}))
    with pytest.raises(UnsupportedError, match="has no config"):
        Claim(Naming.GGML)(bare)
    assert Claim(Naming.HF)(bare) == bare  # a file of tensors alone may be copied


DOCS = Path(__file__).parents[1] / "docs" / "passes.md"
TOGETHER = {"`--with-mmproj`": convert.Request(mmproj=Checkpoint(Naming.GGML, "clip", ()))}
PRUNED = {"`--prune-layers`": convert.Request("Q4_K_M", prune=(1,))}


def recipes(*names):
    return {f"`{name}`" if name else "no `--to`": convert.Request(name) for name in names}


PLAIN, MIXES, PROJECTOR = recipes(None, "BF16", "GPTQ", "EXL2-4.0"), recipes(None, "Q4_K_M"), recipes(None, "F16")
DIRECTIONS = {
    "A Hugging Face folder to a GGUF": (convert.hf_to_ggml, MIXES | PRUNED),
    "What sees or hears in a Hugging Face folder to a GGUF (`--mmproj`)": (convert.projector_to_ggml, PROJECTOR),
    "A GGUF to a Hugging Face folder": (convert.ggml_to_hf, PLAIN | TOGETHER),
    "A Hugging Face folder to another": (convert.hf_to_hf, PLAIN),
    "A GGUF to another, by `convert`": (convert.ggml_to_ggml, MIXES | PRUNED),
}
REQUANTIZED = {"`Q4_K_M`": (), "`--prune-layers`": (1,)}


def tables() -> str:
    """The lists as docs/passes.md prints them."""
    blocks = []
    for title, (listed, requests) in DIRECTIONS.items():
        lists = {name: listed(request, None, None) for name, request in requests.items()}
        blocks += [f"## {title}", f"`{listed.__module__}.{listed.__name__}`", table(lists)]
    lists = {
        name: requantize.requantized(requantize.Request("Q4_K_M", prune=prune), None, None)
        for name, prune in REQUANTIZED.items()
    }
    blocks += ["## A GGUF to another, by `requantize`", "`requant.operations.requantize.requantized`", table(lists)]
    facts = "\n".join(f"| {fact.name.lower()} | {fact.value} |" for fact in Fact)
    return "\n\n".join([*blocks, "## What passes need and ensure", f"| fact | means |\n| - | - |\n{facts}"])


def table(lists):
    """One row for each kind of pass that is in any of the lists, and in which it is."""
    merged = []
    for passes in lists.values():
        place = 0
        for one in passes:
            kinds = [type(other) for other in merged]
            if type(one) in kinds:
                place = kinds.index(type(one)) + 1
            else:
                merged.insert(place, one)
                place += 1
    head = ["pass", "so that", "needs", "ensures", *lists]
    rows = [[f"`{type(one).__name__}`", does(one), said(one.needs), said(one.ensures)] for one in merged]
    for row, one in zip(rows, merged, strict=True):
        row += ["✓" if type(one) in map(type, passes) else "" for passes in lists.values()]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["-"] * len(head), *rows])


def said(facts):
    return ", ".join(fact.name.lower() for fact in Fact if fact in facts)


def test_the_documented_lists_are_those_of_the_code():
    if os.environ.get("REQUANT_ACCEPT"):
        marked = re.compile(r"(<!-- tables -->\n).*(<!-- end -->\n)", re.DOTALL)
        DOCS.write_text(marked.sub(lambda match: f"{match[1]}\n{tables()}\n\n{match[2]}", DOCS.read_text()))
    assert tables() in DOCS.read_text()
