"""Encoders as their makers publish them."""

from collections.abc import Mapping
from typing import Final

from tests.published import Published

_SIZES: Final = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
}
_NOMIC: Final = {
    "architectures": ["NomicBertModel"],
    "model_type": "nomic_bert",
    "vocab_size": 96,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 8192,
    "max_trained_positions": 2048,
    "layer_norm_epsilon": 1e-12,
    "type_vocab_size": 2,
    "causal": False,
    "prenorm": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_emb_base": 1000.0,
}
_ENCODER: Final = {
    "embeddings.word_embeddings.weight": (96, 64),
    "embeddings.token_type_embeddings.weight": (2, 64),
    "emb_ln.weight": (64,),
    "emb_ln.bias": (64,),
    "encoder.layers.{n}.norm1.weight": (64,),
    "encoder.layers.{n}.norm1.bias": (64,),
    "encoder.layers.{n}.norm2.weight": (64,),
    "encoder.layers.{n}.norm2.bias": (64,),
    "encoder.layers.{n}.attn.Wqkv.weight": (192, 64),
    "encoder.layers.{n}.attn.Wqkv.bias": (192,),
    "encoder.layers.{n}.attn.out_proj.weight": (64, 64),
    "encoder.layers.{n}.attn.out_proj.bias": (64,),
}
_JINA: Final = {
    "embeddings.word_embeddings.weight": (96, 64),
    "embeddings.token_type_embeddings.weight": (2, 64),
    "embeddings.LayerNorm.weight": (64,),
    "embeddings.LayerNorm.bias": (64,),
    **{
        f"encoder.layer.{{n}}.attention.{part}.{kind}": (64, 64) if kind == "weight" else (64,)
        for part in ("self.query", "self.key", "self.value", "output.dense")
        for kind in ("weight", "bias")
    },
    "encoder.layer.{n}.attention.output.LayerNorm.weight": (64,),
    "encoder.layer.{n}.attention.output.LayerNorm.bias": (64,),
}
_JINA_CONFIG: Final = {
    **_SIZES,
    "architectures": ["JinaBertModel"],
    "model_type": "bert",
    "position_embedding_type": "alibi",
    "feed_forward_type": "geglu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
}

#: name -> model
ENCODERS: Final[Mapping[str, Published]] = {
    "nomicbert": Published(
        {
            **_NOMIC,
            "n_inner": 96,
            "qkv_proj_bias": False,
            "mlp_fc1_bias": False,
            "mlp_fc2_bias": False,
            "activation_function": "swiglu",
        },
        ("NomicBertModel", "NomicBertConfig", {"layer_norm_eps": 1e-12, "head_dim": 16, "pad_token_id": 0}),
    ),
    "jinabert3-adapters": Published(
        {
            **_SIZES,
            "architectures": ["XLMRobertaModel"],
            "model_type": "xlm-roberta",
            "max_position_embeddings": 2050,
            "pad_token_id": 1,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "rotary_emb_base": 20000.0,
            "lora_adaptations": ["retrieval.query"],
        },
        (
            "JinaEmbeddingsV3Model",
            "JinaEmbeddingsV3Config",
            {"max_position_embeddings": 2050, "pad_token_id": 1, "layer_norm_eps": 1e-12, "type_vocab_size": 2},
        ),
        renamed=((r"^", "roberta."), (r"(Wqkv|fc1|out_proj)\.weight$", r"\1.parametrizations.weight.original")),
    ),
    "nomicbertmoe": Published(
        {
            **_NOMIC,
            "n_positions": 2048,
            "n_inner": 96,
            "qkv_proj_bias": True,
            "mlp_fc1_bias": True,
            "mlp_fc2_bias": True,
            "activation_function": "gelu",
            "num_experts": 4,
            "moe_top_k": 2,
            "moe_every_n_layers": 2,
        },
        shapes={
            **_ENCODER,
            "encoder.layers.0.mlp.fc1.weight": (96, 64),
            "encoder.layers.0.mlp.fc1.bias": (96,),
            "encoder.layers.0.mlp.fc2.weight": (64, 96),
            "encoder.layers.0.mlp.fc2.bias": (64,),
            "encoder.layers.1.mlp.router.layer.weight": (4, 64),
            "encoder.layers.1.mlp.experts.mlp.w1": (4 * 96, 64),
            "encoder.layers.1.mlp.experts.mlp.w2": (4 * 96, 64),
        },
    ),
    "jinabert": Published(
        _JINA_CONFIG,
        shapes={
            **_JINA,
            "encoder.layer.{n}.mlp.gated_layers.weight": (192, 64),
            "encoder.layer.{n}.mlp.wo.weight": (64, 96),
            "encoder.layer.{n}.mlp.wo.bias": (64,),
            "encoder.layer.{n}.mlp.layernorm.weight": (64,),
            "encoder.layer.{n}.mlp.layernorm.bias": (64,),
        },
    ),
    "jinabert-code": Published(
        _JINA_CONFIG,
        shapes={
            **_JINA,
            **{
                f"encoder.layer.{{n}}.{part}.{kind}": (64,)
                for part in (
                    "attention.self.layer_norm_q",
                    "attention.self.layer_norm_k",
                    "layer_norm_1",
                    "layer_norm_2",
                )
                for kind in ("weight", "bias")
            },
            "encoder.layer.{n}.mlp.up_gated_layer.weight": (192, 64),
            "encoder.layer.{n}.mlp.down_layer.weight": (64, 96),
            "encoder.layer.{n}.mlp.down_layer.bias": (64,),
        },
    ),
}
