"""The GGUFs of a text model and of its projector become one folder again, which transformers loads."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from requant.errors import Error
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.ir import Typed
from requant.operations.convert import Request, plan_conversion
from tests import seen
from tests.command import run
from tests.gguf_digest import summary
from tests.tiny_folder import write_tokenizer
from tests.tiny_projectors import MODELS, QWEN, TEXT, make_one

#: What the tiny text models must say otherwise, so that llama.cpp has a text model of the kind.
SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}
LINEAR = {
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "rope_parameters": {**SECTIONS, "mrope_section": [3, 3, 2], "mrope_interleaved": True},
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "norm_topk_prob": True}
PER_LAYER = {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8}
DIFFERENT = {
    "gemma3": {"query_pre_attn_scalar": 16},
    "gemma4": PER_LAYER,
    "gemma4-hearing": PER_LAYER,
    "glm4v": {"rope_parameters": SECTIONS},
    "glm-ocr": {"rope_parameters": SECTIONS, "attention_bias": False},
    "qwen3.5": LINEAR,
}
MORE = {
    "qwen3vlmoe": replace(
        MODELS["qwen3vl"],
        made="Qwen3VLMoeForConditionalGeneration",
        settings={
            **MODELS["qwen3vl"].settings,
            "text_config": {**MODELS["qwen3vl"].settings["text_config"], **EXPERTS},
        },
    ),
    "qwen3.5moe": replace(
        MODELS["qwen3.5"],
        made="Qwen3_5MoeForConditionalGeneration",
        settings={
            "text_config": {**TEXT, **LINEAR, **EXPERTS, "shared_expert_intermediate_size": 40},
            "vision_config": {**QWEN, "num_position_embeddings": 16},
        },
    ),
}
#: What llama.cpp has no use for.
LOST = re.compile(r"vision_tower\.head\..*")
#: What it computes with in F16, whatever the folder has; and logarithms, which come back as close as floats are.
ROUNDED = {
    "gemma3": r"multi_modal_projector\.mm_input_projection_weight",
    "gemma4-hearing": r".*per_dim_scale",
    "qwen3.5": r".*\.A_log",
    "qwen3.5moe": r".*\.A_log",
}
#: Experts have columns as outputs in folders of the Hub, rows in those that transformers 5 saves; it loads both.
TURNED = {"qwen3vlmoe"}
NAMES = [
    "gemma3",
    "gemma4",
    "gemma4-hearing",
    "qwen2vl",
    "qwen2.5vl",
    "qwen3vl",
    "qwen3vlmoe",
    "qwen3.5",
    "qwen3.5moe",
    "pixtral",
    "mistral3",
    "smolvlm",
    "idefics3",
    "llama4",
    "glm4v",
    "glm-ocr",
    "internvl",
    "lfm2vl",
    "cohere2vision",
]


def made(name, folder, **more):
    """The folder of a tiny model, by the names that transformers saves. more: of its text model's config."""
    tiny = MORE[name] if name in MORE else MODELS[name]
    text = {**tiny.settings["text_config"], **DIFFERENT.get(name, {}), **more}
    tied = name.startswith("gemma")
    tiny = replace(tiny, settings={**tiny.settings, "text_config": text, "tie_word_embeddings": tied})
    make_one(tiny, folder, hub=False)
    return folder


def both(folder, scratch):
    """The GGUFs of text model and projector."""
    source = Safetensors().read(folder)
    execute(plan_conversion(source, Gguf(), scratch / "text.gguf", Request(vocabulary=False)))
    execute(plan_conversion(source, Gguf(), scratch / "mmproj.gguf", Request(projector=True)))
    return Gguf().read(scratch / "text.gguf"), Gguf().read(scratch / "mmproj.gguf")


def back(text, mmproj, out, recipe=None):
    execute(plan_conversion(text, Safetensors(), out, Request(recipe, mmproj=mmproj)))
    return out


#: Of each, what a GGUF does not say, and transformers does not compute by; or what is told as lost.
UNSAID = {
    "internvl": {"image_seq_length"},  # which follows from the others, but not in the small model
    # the width comes back as it is, not as it is computed
    "lfm2vl": {
        "text_config.tie_word_embeddings",
        "text_config.block_auto_adjust_ff_dim",
        "text_config.intermediate_size",
    },
    "cohere2vision": {"text_config.tie_word_embeddings"},
    "qwen3vlmoe": {"text_config.tie_word_embeddings"},  # transformers goes by the other one
    "gemma3": {"vision_config.vision_use_head"},  # the head that makes one vector of a picture
    "pixtral": {"text_config.model_type"},  # a Mistral without a window is a Llama
    "mistral3": {"text_config.sliding_window"},
    "idefics3": {"architectures", "model_type", "vision_config.model_type"},  # a SmolVLM computes the same
}
#: Numbers of tokens, which only a tokenizer says.
NUMBERS = re.compile(r"_name_or_path|(text_config\.)?_?(bos|eos|pad)_token_id")
#: Not run for every change; the others are of the same kind.
SLOW = {"qwen2vl", "qwen3.5moe", "idefics3", "gemma4", "glm-ocr", "pixtral", "smolvlm", "lfm2vl", "cohere2vision"}


def flat(config, path=""):
    """Every value of a config by its path."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def differences(ours, theirs):
    """Paths of what both say, and say otherwise."""
    ours, theirs = dict(flat(ours.to_dict())), dict(flat(theirs.to_dict()))
    both_say = ours.keys() & theirs.keys()
    return {path for path in both_say if ours[path] != theirs[path] and not NUMBERS.fullmatch(path)}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES]
)
def test_there_and_back(name, tmp_path):
    """Every tensor bit for bit, and a folder that transformers loads, which computes the same of words and pictures."""
    folder = made(name, tmp_path / "model")
    out = back(*both(folder, tmp_path), tmp_path / "back")
    ours, theirs = (load_file(place / "model.safetensors") for place in (out, folder))
    assert ours.keys() == {tensor for tensor in theirs if not LOST.fullmatch(tensor)}
    for tensor, values in ours.items():
        want = theirs[tensor].float()
        if name in TURNED and ".experts." in tensor:
            want = want.transpose(1, 2)
        if re.fullmatch(ROUNDED.get(name, ""), tensor):
            assert np.allclose(values.float(), want, rtol=2e-3, atol=1e-6), tensor
        else:
            assert torch.equal(values.float(), want), tensor
    config, before = (json.loads((place / "config.json").read_text()) for place in (out, folder))
    kind = getattr(transformers, config["architectures"][0])
    model, told = kind.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert not told["unexpected_keys"] and not told["missing_keys"] and not told["mismatched_keys"]
    other = getattr(transformers, before["architectures"][0]).from_pretrained(folder, dtype=torch.float32)
    assert differences(model.config, other.config) == UNSAID.get(name, set())
    assert_computes_the_same(name, model.eval(), other.eval())


def assert_computes_the_same(name, ours, theirs):
    """Of words, and of a picture where tests/seen.py has one for the model."""
    words = torch.tensor([[5, 9, 41, 17, 63, 20, 8]])
    ours.config.text_config.pad_token_id = theirs.config.text_config.pad_token_id  # a tokenizer would say it
    with torch.inference_mode():
        assert torch.allclose(ours(words).logits, theirs(words).logits, atol=1e-5)
    if name in seen.SIZES:
        pixels = seen.picture(name)
        made_of_it, before = (seen.features(name, model, pixels) for model in (ours, theirs))
        assert np.allclose(made_of_it, before, atol=2e-3 if name in ROUNDED else 1e-6)


def test_the_command(tmp_path):
    """With a tokenizer, whose tokens of pictures config.json names; the preprocessor is one that transformers loads."""
    (tmp_path / "words").mkdir()
    size = write_tokenizer(tmp_path / "words", ["<|image_pad|>", "<|vision_end|>"])
    folder = made("qwen2.5vl", tmp_path / "model", vocab_size=size)
    for file in (tmp_path / "words").iterdir():
        file.rename(folder / file.name)
    text, mmproj, out = tmp_path / "text.gguf", tmp_path / "mmproj.gguf", tmp_path / "back"
    assert run("convert", folder, text).exit_code == 0 and run("convert", folder, mmproj, "--mmproj").exit_code == 0
    done = run("convert", text, out, "--with-mmproj", mmproj)
    assert done.exit_code == 0 and "the GGUF has no token '<|video_pad|>'" in " ".join(done.output.split())
    config, tokens = (json.loads((out / name).read_text()) for name in ("config.json", "tokenizer.json"))
    numbers = {token["content"]: token["id"] for token in tokens["added_tokens"]}
    assert config["image_token_id"] == numbers["<|image_pad|>"] > 0
    assert config["vision_end_token_id"] == numbers["<|vision_end|>"] and "video_token_id" not in config
    processor = transformers.AutoImageProcessor.from_pretrained(out)
    assert list(processor.image_mean) == [0.5, 0.4375, 0.25] and processor.merge_size == 2
    again = tmp_path / "again.gguf"
    assert run("convert", out, again, "--mmproj").exit_code == 0
    assert summary(again)["tensors"] == summary(mmproj)["tensors"]


def refusal(*arguments):
    done = run("convert", *arguments)
    assert done.exit_code in (3, 4), done.stderr
    return done.stderr


def test_what_does_not_go_together(tmp_path):
    """Errors name the file, the key or the tensor, and what would go."""
    gemma, other = made("gemma3", tmp_path / "gemma"), made("qwen3vl", tmp_path / "other")
    for folder in (gemma, other):
        (tmp_path / f"{folder.name}-files").mkdir()
        both(folder, tmp_path / f"{folder.name}-files")
    text, mmproj = (tmp_path / "gemma-files" / name for name in ("text.gguf", "mmproj.gguf"))
    elsewhere, out = tmp_path / "other-files" / "mmproj.gguf", tmp_path / "out"
    said = refusal(text, out, "--with-mmproj", elsewhere)
    assert "qwen3vl_merger" in said and "goes with qwen35, qwen35moe, qwen3vl, qwen3vlmoe" in " ".join(said.split())
    assert "is no projector" in refusal(text, out, "--with-mmproj", text)
    assert "plain numbers" in refusal(text, out, "--with-mmproj", mmproj, "--to", "GPTQ")
    assert "folder of a GGUF" in refusal(gemma, tmp_path / "x.gguf", "--with-mmproj", mmproj)
    assert "--with-mmproj mmproj.gguf" in refusal(mmproj, out)
    wider = tmp_path / "wider.gguf"
    assert run("edit", mmproj, "-o", wider, "--set", "clip.vision.projection_dim=int:48").exit_code == 0
    assert "clip.vision.projection_dim" in refusal(text, out, "--with-mmproj", wider)
    assert not out.exists()


WRONG = [
    *(Typed("u32", n) for n in (0, 1, 3, (1 << 32) - 1)),
    Typed("i32", -1),
    Typed("f32", float("nan")),
    Typed("f32", 0.5),
    Typed("str", "text"),
    Typed("bool", True),
    Typed("[i32]", []),
    Typed("[bool]", [True]),
    Typed("[f32]", [0.5, 0.5, 0.5]),
]


@pytest.mark.parametrize("name", ["gemma3", "gemma4-hearing", "qwen2vl", "qwen2.5vl", "qwen3vl", "mistral3", "smolvlm"])
def test_keys_that_are_wrong(name, tmp_path):
    """Every key of a projector, missing or with a value of another kind or size: an error of ours, or a folder."""
    text, mmproj = both(made(name, tmp_path / "model"), tmp_path)
    refused = 0
    for key in [key for key in mmproj.metadata if key.startswith("clip.")]:
        rest = {other: typed for other, typed in mmproj.metadata.items() if other != key}
        for changed in (rest, *({**rest, key: typed} for typed in WRONG)):
            try:
                plan_conversion(
                    text, Safetensors(), tmp_path / "out", Request(mmproj=replace(mmproj, metadata=changed))
                )
            except Error as error:
                assert str(error)
                refused += 1
    assert refused > 50


@pytest.mark.parametrize("name", ["gemma3", "gemma4-hearing", "qwen2.5vl", "qwen3vl", "llama4", "smolvlm", "internvl"])
def test_tensors_that_are_wrong(name, tmp_path):
    """A tensor that is missing, of another shape, or unknown is named."""
    text, mmproj = both(made(name, tmp_path / "model"), tmp_path)
    for tensor in mmproj.tensors:
        others = [other for other in mmproj.tensors if other is not tensor]
        # one number is one, however many dimensions it has
        shapes = [(*tensor.shape, 1, 1), (0,), *([()] if tensor.shape != (1,) else [])]
        for changed in ([], *([replace(tensor, shape=shape)] for shape in shapes), [replace(tensor, name="v.unknown")]):
            request = Request(mmproj=replace(mmproj, tensors=(*others, *changed)))
            with pytest.raises(Error):
                plan_conversion(text, Safetensors(), tmp_path / "out", request)
