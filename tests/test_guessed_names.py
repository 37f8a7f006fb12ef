"""What a model is called: held to gguf-py, which llama.cpp's converter asks."""

import logging
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.architectures.guessed import guessed, parts_of, size_label, titled

NAMES = [
    "meta-llama/Llama-2-7b-hf",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "bigscience/bloom-7b1-petals",
    "Qwen/Qwen3-235B-A22B-Instruct-2507",
    "NousResearch/Meta-Llama-3-8B-Instruct-64k",
    "openai-community/gpt2-large",
    "all-MiniLM-L6-v2",
    "TinyLlama-1.1B-Chat-v1.0",
    "xxx-iter2.5-q4_k_m-small-1_5B--chat",
    "./model",
    "/model",
    "a/b/c",
    "a sentence - of people 7B",
    "v1",
    "",
    "-",
]
WORDS = [
    *("Llama", "llama", "2", "v0.1", "iter3", "7B", "7b1", "8x7B", "A3B", "1_5b", "128k", "900M", "small", "xl"),
    *("Instruct", "chat", "lora", "q4_K", "f16", "Ünï", "3.5"),
]
ids = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map("-".join)
models = st.one_of(st.sampled_from(NAMES), ids, st.tuples(ids, ids).map("/".join), st.text(max_size=12))
weights = st.sampled_from([0, 1, 135_000_000, 7_000_000_000, 10**12])


@given(models, weights)
@settings(max_examples=150, deadline=None)
def test_parts_of_names(text, weights):
    name, organization, *rest = gguf.Metadata.get_model_id_components(text, weights)
    ours = parts_of(text, weights)
    assert (ours.name, ours.organization, ours.basename, ours.finetune, ours.version, ours.size_label) == (
        name,
        organization,
        *rest,
    )
    assert titled(name) == gguf.Metadata.id_to_title(name)


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (999, 999, 0, 0), (10**6, 10**6, 0, 0), (134_515_008, 1, 1, 0)])
@pytest.mark.parametrize("factor", [1, 7, 96, 1013])
def test_labels_of_sizes(counts, factor):
    counts = tuple(number * factor for number in counts)
    assert size_label(*counts) == gguf.size_label(*counts)
    assert size_label(*counts[:2], 5_630_000 * factor, 8) == gguf.size_label(*counts[:2], 5_630_000 * factor, 8)


def theirs(card, config, folder, weights):
    metadata = gguf.Metadata.apply_metadata_heuristic(
        gguf.Metadata(), card, config, Path(folder) if folder else None, weights
    )
    metadata.name = (folder or "llama") if metadata.name is None else metadata.name
    if metadata.size_label is None:
        metadata.size_label = gguf.size_label(weights, 0, 0, 0)
    writer = gguf.GGUFWriter(path=None, arch="llama")
    metadata.set_gguf_meta_model(writer)
    found = {}
    for key, value in writer.kv_data[0].items():
        if key != "general.architecture":
            found[key] = [str(one) for one in value.value] if isinstance(value.value, list) else value.value
    return found


text = st.one_of(st.none(), models, st.integers(0, 3), st.floats(0, 2, width=16), st.just([]), st.just({}))
origin = st.one_of(
    models,
    models.map("https://huggingface.co/{}".format),
    st.just("https://example.org/x"),
    st.dictionaries(st.sampled_from(["name", "author", "doi", "repo_url", "x"]), models),
    st.integers(),
)
cards = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ["name", "model_name", "author", "model_creator", "version", "basename", "model_type", "finetune"], text
        ),
        **dict.fromkeys(["description", "url", "model_repo_url", "license_name", "size_label"], text),
        "license": st.one_of(st.none(), models, st.lists(models, max_size=2)),
        **dict.fromkeys(
            ["tags", "pipeline_tag", "language", "languages"], st.one_of(st.none(), models, st.lists(models))
        ),
        **dict.fromkeys(["base_model", "base_models", "datasets", "dataset"], st.one_of(origin, st.lists(origin))),
    },
)


@given(cards, models, st.sampled_from(["", "Tiny-Llama-1.1B", "model"]), weights.filter(bool))
@settings(max_examples=150, deadline=None)
def test_cards_and_names(card, name, folder, weights):
    logging.getLogger("metadata").disabled = True
    config = {"_name_or_path": name}
    expected = theirs(card, config, folder, weights)
    names = [name] * (name.count("/") < 2) + [folder] * bool(folder)
    found, _ = guessed(card, names, weights, gguf.size_label(weights, 0, 0, 0), folder or "llama")
    assert {key: typed.value for key, typed in found.items()} == {
        key: value if isinstance(value, list | int) and key.endswith((".count", "tags", "languages")) else str(value)
        for key, value in expected.items()
    }
    assert list(found) == list(expected)
