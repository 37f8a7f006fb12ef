"""Every family, HF -> ggml -> HF: names, shapes, values, hyperparameters."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.torch import load_file, save_file

from requant.architectures import translate
from requant.encodings import F32
from requant.formats.safetensors import Safetensors
from requant.ir import Checkpoint, Naming, Tensor, Typed, flat_config
from requant.plan import Translation
from requant.sources import Memory
from tests.naive_expressions import carried_out, values
from tests.published import random
from tests.published_few import as_gpt2
from tests.published_multimodal import MULTIMODAL, unpacked
from tests.published_streams import as_released
from tests.tiny_models import ENCODERS, MODELS, make
from tests.tiny_published import PUBLISHED

POOLER = {"pooler.dense.weight", "pooler.dense.bias"}
#: What is lost on the way to GGUF.
LOST = {
    **dict.fromkeys(("bert", "roberta", "xlmroberta", "camembert", "jinabert3"), POOLER),
    "mistral-window": {"sliding_window"},
    "gptoss-published": {"rope_scaling.truncate"},
    "phimoe": {"router"},
    "falconmamba": {"mixer_rms_eps"},
    "t5": {"scale_decoder_outputs"},
    "umt5": {"scale_decoder_outputs"},
    "jinabert3-adapters": {"roberta.pooler.dense.weight", "roberta.pooler.dense.bias"},
    "neobert": {"decoder.weight", "decoder.bias"},
    "rugpt3xl": {"sparse_mode"},
    "plamo3-yarn": {"rope_scaling.truncate"},
    "deepseek4-release": {"layers.0.ffn.gate.bias", "mtp.0.norm.weight"},
}
#: The beginning and end of names that come back without.
AROUND = {"jinabert3-adapters": ("roberta.", ".parametrizations.weight.original"), "neobert": ("model.", "nothing")}
#: Keys that say something else, or nothing, where a GGUF becomes another class.
OTHERWISE = {
    "jinabert3-adapters": {"architectures", "model_type", "lora_adaptations"},
    "sarvammoe": {"architectures", "model_type"},
    "neobert": {"architectures"},
    "rugpt3xl": {
        *(
            "architectures",
            "model_type",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        ),
        *("max_position_embeddings", "layer_norm_eps", "hidden_act", "sparse_mode"),
    },
    "jais": {"mup_embeddings_scale", "mup_output_alpha", "mup_width_scale"},
    "internlm3": {"architectures", "model_type", "bias", "qkv_bias"},
    "llamaembed": {"tie_word_embeddings"},
    "lfm2-vl": {"architectures", "model_type", "block_ffn_dim_multiplier", "block_multiple_of"},
    "lfm2-bidirectional": {"tie_word_embeddings", "block_ffn_dim_multiplier", "block_multiple_of"},
    # of another norm; and of text alone
    "stablelm-llava": {"architectures", "model_type", "rms_norm_eps"},
    "qwen2vl-omni": {"architectures", "model_type", "rope_scaling"},
    "qwen3vl-asr": {"architectures", "model_type", "rope_scaling"},
    "qwen3vlmoe-omni": {"architectures", "model_type", "rope_scaling"},
    "glm4-seeing": {"architectures", "model_type", "rope_parameters"},
    "glm4moe-seeing": {"architectures", "model_type", "rope_parameters"},
    "paddleocr": {"rope_scaling"},
    "deepseek4-release": {"rope_scaling"},  # with `rope_type` beside `type`
    **dict.fromkeys(
        ("deepseek3-kimi-vl", "deepseek3-kimi-k25"), frozenset({"architectures", "model_type", "scoring_func"})
    ),
    "deepseek-ocr": {"model_type", "qk_rope_head_dim", "topk_method"},
    "qwen3vlmoe-packed": {"architectures", "model_type", "rope_scaling", "vision_config"},
}
#: The vision model of a model that sees, all of which is lost.
VISION = re.compile(r"(model\.)?(visual|vision_\w+|multi_modal_projector)\..*")
#: What else the published ones have beside their text model.
BESIDE = re.compile(
    r"((model|thinker)\.)?(visual|vision_tower|vision_model|multi_modal_projector|mm_projector|audio_tower|connector|"
    r"aligner|generation_head|talker|token2wav|encoder|projector|mtp|siglip2|merger|mlp_AR|mlp1)\..*|norm\.weight"
)
#: Families whose GGUF becomes another class: a Mistral without its window computes what a Llama does, and GGUF has one
#: architecture for both; the text model of one that sees is a model of its own.
ANOTHER = {
    "mistral": "LlamaConfig",
    "mistral3-small": "MistralConfig",
    "mistral4-small": "Mistral4Config",
    "qwen2vl": "Qwen2Config",
    "qwen3vl": "Qwen3Config",
    "glm4lite": "DeepseekV3Config",
    "camembert": "XLMRobertaConfig",
    "solaropen": "Glm4MoeConfig",
    "museglimmer": "MuseGlimmerTextConfig",
}
#: What is multiplied on the way to GGUF, and comes back so: config.json's factors are 1 then.
MULTIPLIED = {"falconh1", "jais"}
#: Models that come back as another that computes the same: what its tensors are.
UNPACKED = {"qwen3vlmoe-packed": unpacked, "rugpt3xl": as_gpt2}
#: The tokenizer by which a GGUF of an encoder is known.
TOKENIZER = {"roberta": "gpt2", "xlmroberta": "t5", "camembert": "t5"}
#: Keys of config.json that have nothing to do with what is computed, or that `requant.tokenizers` adds.
NOT_OURS = {
    *("_name_or_path", "chunk_size_feed_forward"),
    *("dtype", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache"),
    *("initializer_range", "router_jitter_noise", "router_aux_loss_coef", "output_router_logits"),
}


def as_text(name):
    """A tensor's name in a folder of the text model alone."""
    name = re.sub(r"^(language_model\.|llm\.|thinker\.)", "", name)
    return re.sub(r"^model\.(language_model|text_model)\.", "model.", name)


def sees(model, name):
    """Whether a tensor is none of the text model."""
    return bool((BESIDE if model in MULTIMODAL else VISION).fullmatch(name))


def plainly(model, name):
    """A tensor's name in a folder made of a GGUF of the model."""
    if model == "kimilinear":  # whose dense layers transformers writes as it writes the others
        name = re.sub(r"block_sparse_moe\.(\w+_proj\.)", r"mlp.\1", name)
    if model == "deepseek4":
        name = as_released(name)
    start, end = AROUND.get(model, ("", "nothing"))
    plain = as_text(name).removeprefix(start)
    return plain.removesuffix(end) + ".weight" if plain.endswith(end) else plain


def same(name, ours, theirs):
    """Whether two tensors are the same, bit by bit; but for float32's rounding a logarithm whose power was stored, and
    an offset from a number that is no power of two."""
    if name.endswith("position_embeddings.weight") and len(ours) == len(theirs) == 130:
        ours, theirs = ours[2:], theirs[2:]  # rows that no token reaches
    rounded = name.endswith(("A_log", "post_mixer_norm.weight", "post_mlp_norm.weight"))
    return np.allclose(ours, theirs, rtol=1e-6, atol=2e-7) if rounded else np.array_equal(ours, theirs)


def normal(value):
    """Without the two spellings that mean the same: null, and the name rope types once had."""
    if isinstance(value, dict):
        nothing = ("type", "mrope_section", "mrope_interleaved")  # the sections are the same for text
        return {key: normal(item) for key, item in value.items() if key not in nothing and item is not None}
    return value


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function from the name of a tiny model to the folder it was saved in."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("tiny") / name
            make(name, made[name])
        return made[name]

    return folder


def described(translation: Translation, naming: Naming) -> Checkpoint[Tensor]:
    """The checkpoint that carrying out a translation gives, in memory and in F32."""
    tensors = tuple(
        Tensor(move.name, move.shape, F32, {"data": Memory(carried_out(move.values).astype("<f4").tobytes())})
        for move in translation.moves
    )
    return Checkpoint(
        naming, translation.architecture, tensors, translation.config, translation.metadata, translation.files
    )


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name, folders, tmp_path):
    source = Safetensors().read(folders(name))
    ggml = described(translate(source, Naming.GGML), Naming.GGML)
    if name in TOKENIZER:
        ggml.metadata["tokenizer.ggml.model"] = Typed("str", TOKENIZER[name])
    back = described(translate(ggml, Naming.HF), Naming.HF)

    lost = {loss.subject for loss in translate(source, Naming.GGML).losses}
    seeing = {tensor.name for tensor in source.tensors if sees(name, tensor.name)}
    assert lost == LOST.get(name, seeing)
    before = {plainly(name, tensor.name): values(tensor) for tensor in source.tensors if tensor.name not in lost}
    before = UNPACKED.get(name, dict)(before)
    after = {as_text(tensor.name): values(tensor) for tensor in back.tensors}
    assert after.keys() == before.keys()
    for tensor, array in before.items():
        assert name in MULTIPLIED or same(tensor, after[tensor], array), tensor

    if name in PUBLISHED:
        written = flat_config(PUBLISHED[name].config)
        skipped = NOT_OURS | OTHERWISE.get(name, {"architectures", "model_type"} if name in MULTIMODAL else set())
        for key in written.keys() - skipped - {"text_config", "thinker_config", "llm_config"}:
            assert normal(back.config.get(key)) == normal(written[key]), key
        return
    (tmp_path / "config.json").write_text(json.dumps(back.config))
    ours = transformers.AutoConfig.from_pretrained(tmp_path)
    theirs = transformers.AutoConfig.from_pretrained(folders(name))
    assert type(ours).__name__ == ANOTHER.get(name, type(theirs).__name__)
    ours, theirs = ours.to_dict(), theirs.get_text_config().to_dict()
    skipped = NOT_OURS | ({"model_type", "architectures"} if name in ANOTHER else set())
    # what it says outside of its text model, and what counts with a window only
    skipped |= {"tie_word_embeddings", "max_window_layers"} if seeing else set()
    skipped |= {"tie_word_embeddings"} if name in ENCODERS else set()  # of a head that does not come along
    if name == "t5encoder":  # what the other stack would be
        skipped |= {"decoder_start_token_id", "is_encoder_decoder", "num_decoder_layers", "scale_decoder_outputs"}
    skipped |= {key for key in theirs if "multiplier" in key} if name in MULTIPLIED else set()
    skipped |= {"intermediate_size"} if name == "nemotronh-experts" else set()  # of a network that it has not
    skipped |= {"mask_token_id", "cls_token_id", "sep_token_id"}
    skipped |= {"rope_parameters"} if name == "solaropen" else set()  # the other class says the part that is rotated
    skipped |= {"intermediate_size"} if name == "granitehybrid-dense" else set()  # of experts that it has not
    skipped |= {"mlp_layer_types"} if name == "glm4lite" else set()  # which the other class counts
    if name == "lfm2-adjusted":  # the width comes back as it is, not as it is computed
        skipped |= {"intermediate_size", "block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of"}
    for key in theirs.keys() - skipped:
        if theirs[key] is not None or key not in ("head_dim", "n_inner"):  # null: the usual, which we write out
            assert normal(ours.get(key)) == normal(theirs[key]), key


GOLDENS = Path(__file__).parent.parent / "fixtures" / "architectures"
#: Where we say more than llama.cpp's converter does, and why.
MORE = {
    # the converter forgets the factors of a longrope in this architecture, which llama.cpp can apply
    "llama-longrope": {
        "llama.rope.scaling.original_context_length",
        "llama.rope.scaling.attn_factor",
        "rope_factors_long.weight",
        "rope_factors_short.weight",
    },
    # unread by llama.cpp, but without it the way back would lose the window
    "mistral-window": {"llama.attention.sliding_window"},
    # unread by llama.cpp, which always cuts; gpt-oss as published does not, so that silence means that on the way back
    "gptoss": {"gpt-oss.rope.scaling.yarn_truncate"},
    # the converter forgets the list, and llama.cpp would put windows elsewhere
    "gptoss-windows": {"gpt-oss.rope.scaling.yarn_truncate", "gpt-oss.attention.sliding_window_pattern"},
    # what llama.cpp would take anyway
    "mixtral": {"llama.attention.key_length", "llama.attention.value_length"},
    "cohere2-vision": {"cohere2.attention.key_length", "cohere2.attention.value_length"},
    "gemma": {"gemma.rope.freq_base"},
    "xverse": {"xverse.rope.freq_base", "xverse.attention.head_count_kv"},
    "orion": {"orion.rope.freq_base"},
    # the epsilon of a norm that llama.cpp does not have here is all it writes, and llama.cpp refuses its file
    "exaone": {"exaone.attention.layer_norm_rms_epsilon"},
    "qwen": {"qwen.attention.layer_norm_rms_epsilon"},
    # transformers no longer writes the keys
    "afmoe": {"afmoe.expert_weights_norm", "afmoe.expert_gating_func"},
    # what llama.cpp would take anyway
    "minicpm3": {"minicpm3.rope.freq_base"},
    "qwen35-minicpm": {"qwen35.attention.recurrent_layers"},
    "glm4-seeing": {"glm4.attention.key_length", "glm4.attention.value_length"},
    "glm4moe-seeing": {
        "glm4moe.expert_group_count",
        "glm4moe.expert_group_used_count",
        "glm4moe.nextn_predict_layers",
    },
    "apertus": {"apertus.attention.key_length", "apertus.attention.value_length"},
    "solaropen": {"glm4moe.leading_dense_block_count", "glm4moe.nextn_predict_layers"},
    # it reads the name of another release
    "granitemoeswa": {"granite_swa.attention.rope_pattern"},
    # whoever runs it must know
    "t5encoder": {"t5encoder.attention.causal"},
    # known by the architecture
    "llamaembed": {"llama-embed.attention.causal"},
    "stablelm": {"stablelm.rope.freq_base"},
    "stablelm-llava": {"stablelm.rope.freq_base"},
    "glm": {"chatglm.attention.key_length", "chatglm.attention.value_length"},
    "phi2": {"phi2.rope.freq_base"},
    # transformers 5 no longer writes the key that the converter reads; the choice is always this
    # without it the way back would not know the dense layers
    "hyv3": {"hy_v3.leading_dense_block_count"},
    "exaonemoe": {"exaone-moe.expert_gating_func"},
    "dots1": {"dots1.expert_gating_func"},
    "glm4lite": {"deepseek2.expert_gating_func"},
    "falcon": {"falcon.rope.freq_base"},
    "falcon-multi-query": {"falcon.rope.freq_base"},
    "deepseek3": {"deepseek2.expert_gating_func"},
    # it leaves out the growth of queries, which llama.cpp reads: logits differ behind the context of training
    "mistral4-small": {
        "mistral4.expert_gating_func",
        "mistral4.attention.temperature_scale",
        "mistral4.attention.temperature_length",
    },
    "deepseek3-yarn": {"deepseek2.expert_gating_func"},
    "deepseek2-lite": {"deepseek2.expert_gating_func", "deepseek2.expert_weights_norm"},
    # it reads keys of the first release, without which llama.cpp stops or takes its own
    "modernbert": {"modern-bert.attention.layer_norm_epsilon", "modern-bert.attention.sliding_window_pattern"},
    "minimax": {"minimax-m2.expert_gating_func"},
    **{key: {"deepseek32.expert_gating_func"} for key in ("deepseek32", "deepseek32-ahead")},
    "kimilinear": {"kimi-linear.expert_gating_func"},
    **{key: {"glm-dsa.expert_gating_func"} for key in ("glmdsa", "glmdsa-shared")},
    "gemma2": {"gemma2.rope.freq_base"},
    # the converter forgets the list, and llama.cpp would put windows elsewhere
    "gemma2-windows": {"gemma2.rope.freq_base", "gemma2.attention.sliding_window_pattern"},
}
#: Where we say something else than llama.cpp's converter, and why.
OTHER = {
    # whatever config.json says, it writes a context of 256 K
    "hunyuan": {"hunyuan-dense.context_length", "hunyuan-dense.rope.scaling.original_context_length"},
    # whatever config.json says, it writes a context of 1 M
    "granitehybrid": {"granitehybrid.context_length"},
    "granitehybrid-dense": {"granitehybrid.context_length"},
    "nemotronh": {"nemotron_h.context_length"},
    "nemotronh-experts": {"nemotron_h_moe.context_length"},
    # it takes none where transformers 5 lists the layers
    "glm4lite": {"deepseek2.leading_dense_block_count"},
    # it reads keys of the first releases, and without them takes the hidden size and an epsilon 64 times as large
    "glm": {"chatglm.context_length", "chatglm.attention.layer_norm_rms_epsilon"},
    # it rotates half of each head unless config.json says how much of it; transformers all of it
    "solaropen": {"glm4moe.rope.dimension_count"},
}
#: Tensors whose rows llama.cpp's converter has in another order, and why.
REORDERED = {
    # as they are released, by heads; llama.cpp's graph takes queries of all heads, then keys, then values
    "neobert": {"blk.0.attn_qkv.weight", "blk.1.attn_qkv.weight"},
}
#: Of Bamba it puts whole heads in the order of rotation, of which half is rotated.
#: Models that it cannot convert: its function that stacks the norms of heads is a generator nobody iterates over.
#: For CamemBERT it leaves the position embedding as it is, which llama.cpp then reads two rows too early; of Jina 3 it
#: knows the name of the first release alone; of Baichuan it calls itself without end; Granite
#: Speech it lists without taking it; Mistral 4 it knows by the class that sees alone; DeepSeek V4 by the names of the
#: release alone, of which there is a golden.
WITHOUT_GOLDEN = {
    "stablelm-parallel",
    "camembert",
    "jinabert3",
    "baichuan",
    "granite-speech",
    "mistral4",
    "bamba",
    "deepseek4",
}


@pytest.mark.parametrize("name", [name for name in MODELS if name not in WITHOUT_GOLDEN])
def test_same_as_the_converter_of_llama_cpp(name, folders):
    golden = json.loads((GOLDENS / f"{name}.json").read_text())
    said = translate(Safetensors().read(folders(name)), Naming.GGML)

    metadata = {
        key: (typed.kind, np.float32(typed.value).item() if typed.kind == "f32" else typed.value)
        for key, typed in said.metadata.items()
    }
    expected = {key: tuple(item) for key, item in golden["metadata"].items()}
    for key in ("general.file_type", "general.quantization_version"):  # the plan's
        expected.pop(key, None)  # which it forgets for some
    for key in ("tokenizer.ggml.add_bos_token", "tokenizer.chat_template"):  # the tokenizer's
        expected.pop(key, None)
    other = OTHER.get(name, set())
    assert all(expected.pop(key) != metadata.pop(key, None) for key in other)
    assert {key: item for key, item in metadata.items() if key in expected} == expected
    moves = {move.name: move for move in said.moves}
    assert all(type(typed.value) is int for typed in said.metadata.values() if typed.kind == "u32")
    more = (metadata.keys() - expected.keys()) | (moves.keys() - golden["tensors"].keys())
    assert more == MORE.get(name, set())

    for tensor, (shape, content) in golden["tensors"].items():
        array = carried_out(moves[tensor].values).astype("<f4")
        assert array.shape == tuple(shape), tensor
        if isinstance(content, list):
            assert np.allclose(array, content, rtol=3e-7, atol=0), tensor
        else:
            reordered = tensor in REORDERED.get(name, set())
            assert (hashlib.sha256(array.tobytes()).hexdigest() != content) == reordered, tensor


def test_every_golden_has_its_model():
    assert {path.stem for path in GOLDENS.glob("*.json")} == MODELS.keys() - WITHOUT_GOLDEN


def changed(folder, config, leave=(), **tensors):
    """The folder, with other settings and tensors."""
    path = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if not name.startswith(tuple(leave))}
    save_file(kept | tensors, path)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | config))
    return Safetensors().read(folder)


def test_a_head_that_is_a_copy_of_the_embedding_has_its_own_factors(tmp_path):
    make("jais", tmp_path)
    source = changed(tmp_path, {"tie_word_embeddings": True}, leave=["lm_head"])
    moves = {move.name: carried_out(move.values) for move in translate(source, Naming.GGML).moves}
    embedding = next(values(tensor) for tensor in source.tensors if tensor.name == "transformer.wte.weight")
    assert np.allclose(moves["token_embd.weight"], 9.1 * embedding, rtol=1e-6)
    assert np.allclose(moves["output.weight"], 2.2 * 0.125 * embedding, rtol=1e-6)


def test_a_classifier_of_neobert_there_and_back(tmp_path):
    make("neobert", tmp_path)
    shapes = {"dense.weight": (64, 64), "dense.bias": (64,), "classifier.weight": (3, 64), "classifier.bias": (3,)}
    head = {name: random(name, shape) for name, shape in shapes.items()}
    settings = {"architectures": ["NeoBERTForSequenceClassification"], "num_labels": 3}
    source = changed(tmp_path, settings, leave=["decoder"], **head)
    ggml = described(translate(source, Naming.GGML), Naming.GGML)
    assert ggml.metadata["neo-bert.pooling_type"].value == 4
    back = described(translate(ggml, Naming.HF), Naming.HF)
    assert back.config["architectures"] == settings["architectures"]
    before, after = ({tensor.name: values(tensor) for tensor in one.tensors} for one in (source, back))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
