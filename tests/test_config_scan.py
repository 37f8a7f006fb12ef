"""Every key of every family's configuration, changed to another value, changes the GGUF, is told, or has no meaning."""

import json
from dataclasses import replace
from functools import cache

import pytest
import transformers

from requant.architectures import translate
from requant.errors import Error
from requant.formats.safetensors import Safetensors
from requant.ir import Naming
from tests.tiny_models import ENCODERS, MODELS, make
from tests.tiny_published import PUBLISHED

#: A variant of a model says nothing that the model itself does not; what transformers has no class for has no defaults.
NAMES = [name for name in MODELS if "-" not in name and name not in PUBLISHED]

#: Keys that no GGUF needs, and why.
IRRELEVANT = {
    "training only": {
        *("dropout", "mlp_dropout", "initializer_cutoff_factor", "sparse_pred_ignore_index", "sparse_prediction"),
        *("input_jitter_noise", "dropout_rate", "initializer_factor", "embedding_initializer_range"),
        *("initializer_range", "attention_dropout", "hidden_dropout", "residual_dropout", "embedding_dropout"),
        *("embd_pdrop", "resid_pdrop", "attn_pdrop", "attention_probs_dropout_prob", "hidden_dropout_prob"),
        *("classifier_dropout", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
    },
    "what a call of transformers returns or keeps, or how it is computed": {
        *("output_attentions", "output_hidden_states", "return_dict", "use_cache", "chunk_size_feed_forward"),
        *(
            "dtype",
            "num_logits_to_keep",
            "use_mamba_kernels",
            "mamba_ssm_cache_dtype",
            "reorder_and_upcast_attn",
            "slow_but_exact",
            "attention_softmax_in_fp32",
            "enable_moe_fp32_combine",
            "scale_attention_softmax_in_fp32",
        ),
    },
    "who wrote the file; no computation reads it": {"transformers_version", "pretraining_tp", "is_encoder_decoder"},
    "the class that is named decides": {"architectures", "model_type"},
    "the tokenizer's pass reads it": {"bos_token_id", "eos_token_id", "pad_token_id", "eod_token_id", "sep_token_id"},
    "where pictures stand in a text, which the vision model's file says": {
        *("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
    },
    "heads of other classes": {
        *("id2label", "label2id", "problem_type", "summary_activation", "summary_first_dropout"),
        *("summary_proj_to_labels", "summary_type", "summary_use_proj"),
    },
}
#: Keys of single families that say nothing as the others stand.
SAID_OTHERWISE = {
    "only with use_sliding_window, whose change is told": {
        *(
            (name, key)
            for name in ("qwen2", "qwen2moe", "qwen3", "qwen2vl")
            for key in ("sliding_window", "max_window_layers")
        ),
        ("qwen3moe", "sliding_window"),
        *((name, "layer_types") for name in ("qwen2", "qwen2moe", "qwen3", "smollm3", "qwen2vl")),
        *((name, "sliding_window") for name in ("smollm3", "exaone4")),
    },
    "a list of layers stands beside it": {
        *(
            ("gemma3", "_sliding_window_pattern"),
            ("gemmaembedding", "_sliding_window_pattern"),
            ("exaone4", "sliding_window_pattern"),
            ("smollm3", "no_rope_layer_interval"),
        ),
        *(("exaonemoe", "sliding_window_pattern"), ("exaonemoe", "first_k_dense_replace")),
        *(("dots1", "sliding_window"), ("dots1", "max_window_layers")),
        *((name, "first_k_dense_replace") for name in ("deepseek32", "glmdsa")),
        *(("cohere2moe", key) for key in ("sliding_window_pattern", "prefix_dense_sliding_window_pattern")),
        *(("cohere2moe", key) for key in ("rope_theta", "rope_scaling")),  # beside rope_parameters
        *(("llama4", "no_rope_layer_interval"), ("llama4", "layer_types")),
        *(("mellum", "mlp_layer_types"), ("afmoe", "global_attn_every_n_layers")),
        ("exaone4", "layer_types"),  # without a width no layer has a window
    },
    "a list of layers stands beside it, and the width is as it says": {
        *(("lfm2", key) for key in ("full_attn_idxs", "block_multiple_of", "block_ffn_dim_multiplier")),
    },
    "rope_parameters say it for both kinds of layers": {
        *(("deepseek4", key) for key in ("rope_theta", "compress_rope_theta")),
    },
    "partial_rotary_factor says it": {("deepseek4", "qk_rope_head_dim")},
    "only the word rope says something": {("granitehybrid", "position_embedding_type")},
    "in how many steps it is computed, or how weights began": {
        *((name, "mamba_chunk_size") for name in ("granitehybrid", "falconh1", "bamba")),
        *(("jamba", key) for key in ("use_mambapy", "use_associative_scan")),
        *(
            (name, key)
            for name in ("mamba", "falconmamba", "mamba2")
            for key in ("time_step_min", "time_step_max", "time_step_floor", "rescale_prenorm_residual")
        ),
        *(
            ("nemotronh", key)
            for key in ("chunk_size", "time_step_min", "time_step_max", "time_step_floor", "rescale_prenorm_residual")
        ),
        *((name, "residual_in_fp32") for name in ("mamba", "falconmamba", "mamba2")),
        *(
            (name, key)
            for name in ("mamba", "falconmamba")
            for key in ("time_step_scale", "time_step_init_scheme", "use_associative_scan", "use_mambapy")
        ),
        ("mamba2", "chunk_size"),
    },
    "expand says it": {("mamba", "intermediate_size"), ("falconmamba", "intermediate_size")},
    "the heads say it": {("mamba2", "time_step_rank")},
    "the same for each layer, however many are listed": {("hunyuanmoe", "moe_topk")},
    "a tensor of its own in a GGUF": {("museglimmer", "qk_scale_factor")},
    "of the vision model": {
        *(("museglimmer", key) for key in ("projector_hidden_act", "projector_hidden_size", "out_hidden_size")),
    },
    "prediction layers are there or not, whatever this says": {
        *(("mellum", key) for key in ("num_nextn_predict_layers", "mtp_layer_types", "mtp_mlp_layer_types")),
        *((name, "num_nextn_predict_layers") for name in ("glm4moe", "deepseek4")),
        *(("nemotronh", key) for key in ("num_nextn_predict_layers", "mtp_layers_block_type")),
    },
    "transformers warns of it, and computes the same": {("gptneox", "is_decoder")},
    "sums of others": {
        *((name, "head_dim") for name in ("deepseek3", "mistral4", "youtu", "minicpm3", "deepseek32", "glmdsa")),
        *(
            (name, "qk_head_dim")
            for name in ("deepseek3", "mistral4", "glm4lite", "youtu", "minicpm3", "deepseek32", "glmdsa", "kimilinear")
        ),
    },
    "the rows of a tensor say it": {(name, "vocab_size_per_layer_input") for name in ("gemma3n", "gemma4")},
    "what is cached of a layer, all of which have an indexer's choice": {
        *((name, "layer_types") for name in ("deepseek32", "glmdsa")),
    },
    "of training": {("gemma3n", "altup_coef_clip"), ("bamba", "z_loss_coefficient")},
    "the width of the state stands beside it": {("falconh1", "mamba_expand"), ("nemotronh", "expand")},
    "of experts, which the model has not": {
        *(
            ("nemotronh", key)
            for key in (
                *("routed_scaling_factor", "moe_latent_size", "moe_shared_expert_overlap", "n_routed_experts"),
                *("n_shared_experts", "moe_intermediate_size", "moe_shared_expert_intermediate_size"),
                *("num_experts_per_tok", "n_group", "topk_group", "norm_topk_prob"),
            )
        ),
    },
    "only without new_decoder_architecture": {("falcon", "multi_query")},
    "the tensors tell": {("falcon", "num_ln_in_parallel_attn")},
    "its layers are left out, which is told of each tensor": {("deepseek3", "num_nextn_predict_layers")},
    "multi_query says it": {("starcoder", "num_key_value_heads")},
    "an encoder has no head to tie, sees both ways, and crosses to nothing": {
        *((name, "tie_word_embeddings") for name in ENCODERS),
        *((name, "is_causal") for name in ENCODERS - {"gemmaembedding"}),
        *((name, "add_cross_attention") for name in ("bert", "roberta", "xlmroberta", "camembert")),
    },
    "ALiBi takes the place of what is learned, and the rest is of training": {
        *(("mpt", key) for key in ("learned_pos_emb", "embedding_fraction", "emb_pdrop", "init_device")),
    },
    "feed_forward_proj says it": {
        *((name, key) for name in ("t5", "umt5", "t5encoder") for key in ("dense_act_fn", "is_gated_act")),
    },
    "both stacks are there, or one": {
        *((name, "is_decoder") for name in ("t5", "umt5", "t5encoder")),
        *(("t5encoder", key) for key in ("num_decoder_layers", "scale_decoder_outputs")),
    },
    "of the sines in which the position embedding of DistilBERT began": {("distilbert", "sinusoidal_pos_embds")},
    "of heads of other classes": {
        *(("distilbert", key) for key in ("qa_dropout", "seq_classif_dropout")),
        *(("modernbert", key) for key in ("decoder_bias", "cls_token_id", "deterministic_flash_attn")),
        *(("eurobert", key) for key in ("classifier_pooling", "mask_token_id")),
    },
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The checkpoint of a tiny model, made once."""

    @cache
    def made(name):
        folder = tmp_path_factory.mktemp("tiny") / name
        make(name, folder)
        return Safetensors().read(folder)

    return made


def flat(config):
    """A configuration with its text model's at the top, and without that of pictures: as the first of them are."""
    text = {key: value for key, value in config.get("text_config", {}).items() if key != "model_type"}
    return {key: value for key, value in (config | text).items() if key not in ("text_config", "vision_config")}


def said(checkpoint, config):
    """All that a translation says, or the error."""
    try:
        result = translate(replace(checkpoint, config=config), Naming.GGML)
    except Error as error:
        return str(error)
    metadata = {
        key: (typed.kind, typed.value if isinstance(typed.value, str | int | float) else list(typed.value))
        for key, typed in result.metadata.items()
    }
    moves = [(move.name, move.shape, repr(move.values)) for move in result.moves]
    return metadata, moves, [(loss.subject, loss.detail) for loss in result.losses]


def others(key, value):
    """Other values of the same kind."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value + 2]
    if isinstance(value, float):
        return [value * 2 + 0.25]
    if isinstance(value, str):
        return [word for word in ("gelu", "relu") if word != value]
    if key == "layer_types":
        swapped = {"full_attention": "sliding_attention", "sliding_attention": "full_attention"}
        swapped["linear_attention"] = swapped["conv"] = "full_attention"
        return [[swapped.get(value[0], value[0]), *value[1:]]]
    if isinstance(value, list):
        return [value[:-1], [*reversed(value)]] if value else [[0]]
    if isinstance(value, dict):
        return [{**value, inner: other} for inner, item in value.items() for other in others(inner, item)]
    return [True, 3]


@pytest.mark.parametrize("name", NAMES)
def test_no_key_is_ignored_in_silence(name, source):
    checkpoint = source(name)
    usual = flat(json.loads(json.dumps(dict(checkpoint.config))))
    base = said(checkpoint, usual)
    known = flat(getattr(transformers, MODELS[name][1])().to_dict()) | {"is_causal": True}
    settled = set().union(*IRRELEVANT.values()) | {
        key for pairs in SAID_OTHERWISE.values() for one, key in pairs if one == name
    }
    silent = set()
    for key in known:
        value = usual.get(key, known[key])
        if all(said(checkpoint, usual | {key: other}) == base for other in others(key, value)):
            silent.add(key)
    assert sorted(silent - settled) == []
    # and no excuse outlives its key
    assert {key for pairs in SAID_OTHERWISE.values() for one, key in pairs if one == name} <= silent


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_out_is_what_transformers_takes(name, source):
    """A folder may leave out whatever equals the default of its class, as transformers writes some: the same GGUF."""
    checkpoint = source(name)
    usual = flat(json.loads(json.dumps(dict(checkpoint.config))))
    defaults = flat(json.loads(json.dumps(getattr(transformers, MODELS[name][1])().to_dict())))
    base = said(checkpoint, usual)
    for key, value in usual.items():
        spelled = (name, key) == ("olmo3", "rope_parameters")  # the theta of windowed layers is written if it is there
        if key in defaults and defaults[key] == value and key not in ("architectures", "model_type") and not spelled:
            less = {other: item for other, item in usual.items() if other != key}
            found = said(checkpoint, less)
            assert found == base or (isinstance(found, str) and found.endswith(f"{key!r} is missing")), key
