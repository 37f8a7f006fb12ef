"""Models that embed, classify or rank instead of predicting tokens: what the class and the files beside it say."""

import contextlib
import io
import json

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from requant.errors import PlanError, UnsupportedError
from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.ir import Typed
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from requant.verify.llama_cpp import LlamaCpp
from tests.test_architectures_run import SHAM
from tests.tiny_models import make

TEXT = [5, 9, 41, 17, 63, 20, 8]
SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
#: A vocabulary for encoders, of which llama.cpp asks one.
WORDS = (
    ("tokenizer.ggml.model", Typed("str", "bert")),
    ("tokenizer.ggml.tokens", Typed("[str]", [f"▁{n}" for n in range(96)])),
    ("tokenizer.ggml.token_type", Typed("[i32]", [1] * 96)),
)


def saved(folder, model, config, **changes):
    """A random model of this class, all of whose weights count, saved."""
    torch.manual_seed(3)
    settings = {**SMALL, **changes}
    if config.startswith(("Bert", "Roberta", "XLMRoberta", "ModernBert")):
        settings.pop("num_key_value_heads", None)
    made = getattr(transformers, model)(getattr(transformers, config)(**settings))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.add_(torch.randn_like(weight) * (0.1 if weight.ndim == 1 else 0.2) * ("score" not in name))
    made.eval().save_pretrained(folder)
    return made


def changed(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def converted(folder, path, **request):
    plan = plan_conversion(Safetensors().read(folder), Gguf(), path, Request("F32", vocabulary=False, **request))
    execute(plan)
    return plan


def embedded(path):
    with LlamaCpp(path, n_ctx=128, embeddings=True, precise=True) as runtime:
        return runtime.embed(TEXT)


def near(ours, theirs):
    """llama.cpp's gelu comes out of a table in F16: BERT and GPT-2 are coarser than the others."""
    return np.abs(ours - theirs).max() <= 2e-3 * max(1.0, np.ptp(theirs))


CLASSIFIERS = [
    ("BertForSequenceClassification", "BertConfig", {}, ("cls", "cls.output")),
    (
        "RobertaForSequenceClassification",
        "RobertaConfig",
        {"type_vocab_size": 1, "pad_token_id": 1},
        ("cls", "cls.output"),
    ),
    (
        "XLMRobertaForSequenceClassification",
        "XLMRobertaConfig",
        {"type_vocab_size": 1, "pad_token_id": 1},
        ("cls", "cls.output"),
    ),
    ("ModernBertForSequenceClassification", "ModernBertConfig", {}, ("cls", "cls.norm", "cls.output")),
    (
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        {"classifier_pooling": "mean", "classifier_activation": "silu"},
        ("cls", "cls.norm", "cls.output"),
    ),
    ("Qwen3ForSequenceClassification", "Qwen3Config", {"head_dim": 32}, ("cls.output",)),
]
#: By which of their tokenizers a GGUF is known.
TOKENIZERS = {"RobertaConfig": "gpt2", "XLMRobertaConfig": "t5"}


@pytest.mark.parametrize("labels", [1, pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(("model", "config", "more", "modules"), CLASSIFIERS)
def test_scores_of_classifiers(model, config, more, modules, labels, tmp_path):
    made = saved(tmp_path / "hf", model, config, num_labels=labels, **more)
    with torch.inference_mode():
        scores = made(torch.tensor([TEXT])).logits[0].double()
    if model.startswith("Qwen3"):  # llama.cpp puts a softmax behind it
        scores = scores.softmax(0) if labels > 1 else torch.cat([scores.sigmoid(), 1 - scores.sigmoid()])
    plan = converted(tmp_path / "hf", tmp_path / "m.gguf", key_values=() if model.startswith("Qwen3") else WORDS)
    assert {loss.kind for loss in plan.losses} <= {LossKind.UNLOADED}
    assert near(embedded(tmp_path / "m.gguf")[0], scores.numpy())
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    names = {tensor.name for tensor in reader.tensors}
    assert {f"{module}.weight" for module in modules} <= names
    architecture = reader.fields["general.architecture"].contents()
    found = reader.fields[f"{architecture}.classifier.output_labels"].contents()
    assert found[:labels] == [f"LABEL_{n}" for n in range(labels)]

    source = Gguf().read(tmp_path / "m.gguf")
    source.metadata.update(SHAM[TOKENIZERS.get(config, "none")])
    execute(plan_conversion(source, Safetensors(), tmp_path / "back", Request()))
    with contextlib.redirect_stderr(io.StringIO()):
        again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back").eval()
    assert type(again) is type(made)
    assert again.config.id2label == made.config.id2label
    with torch.inference_mode():
        assert torch.allclose(again(torch.tensor([TEXT])).logits, made(torch.tensor([TEXT])).logits, atol=1e-5)


def test_token_types_of_pairs_are_told(tmp_path):
    saved(tmp_path / "hf", "BertForSequenceClassification", "BertConfig", num_labels=1)
    losses = converted(tmp_path / "hf", tmp_path / "m.gguf", key_values=WORDS).losses
    assert [loss.subject for loss in losses] == ["token_types.weight"]
    assert "BertForSequenceClassification" in losses[0].detail


def reranker_tokenizer(folder):
    words = {word: n for n, word in enumerate(["<unk>", *(f"w{n}" for n in range(90)), "yes", "no"])}
    tokenizer = Tokenizer(models.WordLevel(words, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return words["yes"], words["no"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sign", ["folder", "card", "config"])
def test_qwen3_reranker(sign, tied, tmp_path):
    folder = tmp_path / ("Qwen3-Reranker-0.6B" if sign == "folder" else "model")
    made = saved(folder, "Qwen3ForCausalLM", "Qwen3Config", head_dim=32, tie_word_embeddings=tied)
    ids = reranker_tokenizer(folder)
    if sign == "card":
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# Qwen3-Reranker-0.6B\n")
    elif sign == "config":
        changed(folder, _name_or_path="Qwen/Qwen3-Reranker-0.6B")
    with torch.inference_mode():
        chances = made(torch.tensor([TEXT])).logits[0, -1, list(ids)].softmax(0).numpy()
    converted(folder, tmp_path / "m.gguf")
    assert near(embedded(tmp_path / "m.gguf")[0], chances)
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["qwen3.classifier.output_labels"].contents() == ["yes", "no"]
    assert fields["qwen3.pooling_type"].contents() == 4
    assert "{query}" in fields["tokenizer.chat_template.rerank"].contents()


def test_a_reranker_without_its_tokenizer_is_told(tmp_path):
    folder = tmp_path / "Qwen3-Reranker-0.6B"
    saved(folder, "Qwen3ForCausalLM", "Qwen3Config", head_dim=32)
    (loss,) = converted(folder, tmp_path / "m.gguf").losses
    assert (loss.kind, loss.subject) == (LossKind.SUSPECT, "reranker")


OTHER_HEADS = [
    ("LlamaForSequenceClassification", "LlamaConfig", {}),
    ("LlamaForTokenClassification", "LlamaConfig", {}),
    ("LlamaForQuestionAnswering", "LlamaConfig", {}),
    ("Qwen2ForSequenceClassification", "Qwen2Config", {}),
    ("MistralForSequenceClassification", "MistralConfig", {}),
    ("Qwen3ForTokenClassification", "Qwen3Config", {"head_dim": 32}),
    ("Qwen3MoeForSequenceClassification", "Qwen3MoeConfig", {"head_dim": 32}),
    ("GPT2ForSequenceClassification", "GPT2Config", {"n_embd": 64, "n_head": 4, "n_layer": 2}),
    ("GPT2DoubleHeadsModel", "GPT2Config", {"n_embd": 64, "n_head": 4, "n_layer": 2}),
    ("Phi3ForSequenceClassification", "Phi3Config", {}),
    ("BertForTokenClassification", "BertConfig", {}),
    ("BertForQuestionAnswering", "BertConfig", {}),
    ("BertForMultipleChoice", "BertConfig", {}),
    ("BertForNextSentencePrediction", "BertConfig", {}),
]


@pytest.mark.parametrize(("model", "config", "more"), OTHER_HEADS)
def test_a_head_without_a_place_is_refused_by_the_name_of_its_class(model, config, more, tmp_path):
    saved(tmp_path / "hf", model, config, **more)
    with pytest.raises(UnsupportedError, match=f"the class {model}") as caught:
        converted(tmp_path / "hf", tmp_path / "m.gguf")
    # no hint may lead to a model without its head
    assert not any(word in str(caught.value.hint) for word in ("tie_word_embeddings", "remove", "shard", "CausalLM"))


@pytest.mark.parametrize("config", ["LlamaConfig", "Qwen2Config"])
def test_a_class_that_nobody_knows_is_told(config, tmp_path):
    saved(tmp_path / "hf", config.replace("Config", "ForCausalLM"), config)
    code = {"auto_map": {"AutoModel": "modeling_x.SomeEncoderModel"}}
    changed(tmp_path / "hf", architectures=["SomeEncoderModel"], **code)
    (loss,) = converted(tmp_path / "hf", tmp_path / "m.gguf").losses
    assert (loss.kind, loss.subject) == (LossKind.SUSPECT, "architectures")
    assert "SomeEncoderModel with code of its own" in loss.detail


def test_a_model_type_that_is_not_that_of_the_class_is_told(tmp_path):
    make("llama", tmp_path / "hf")
    for kind, told in (("llama", []), ("qwen2", ["model_type 'qwen2'"]), ("nobody", ["model_type 'nobody'"])):
        changed(tmp_path / "hf", model_type=kind)
        source = Safetensors().read(tmp_path / "hf")
        plan = plan_conversion(source, Gguf(), tmp_path / "x.gguf", Request("F32", vocabulary=False))
        assert [loss.subject for loss in plan.losses if loss.kind is LossKind.SUSPECT] == told


@pytest.mark.parametrize("name", ["Qwen2ForProcessRewardModel", "SomeRewardModel", "SomeOtherModel"])
def test_tensors_of_a_class_that_nobody_knows(name, tmp_path):
    """As Qwen2.5-Math-PRM: `score.0.weight` beside a qwen2."""
    saved(tmp_path / "hf", "Qwen2ForSequenceClassification", "Qwen2Config")
    changed(tmp_path / "hf", architectures=[name])
    with pytest.raises(UnsupportedError, match=f"the class {name}") as caught:
        converted(tmp_path / "hf", tmp_path / "m.gguf")
    assert not any(word in str(caught.value.hint) for word in ("tie_word_embeddings", "remove", "shard"))


DECODERS = [
    ("LlamaModel", "LlamaConfig", {}),
    ("MistralModel", "MistralConfig", {"sliding_window": None}),
    ("MixtralModel", "MixtralConfig", {"num_local_experts": 4}),
    ("Qwen2Model", "Qwen2Config", {}),
    ("Qwen2MoeModel", "Qwen2MoeConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    ("Qwen3Model", "Qwen3Config", {"head_dim": 32}),
    (
        "Qwen3MoeModel",
        "Qwen3MoeConfig",
        {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True},
    ),
    ("Gemma3TextModel", "Gemma3TextConfig", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64}),
    ("Phi3Model", "Phi3Config", {"original_max_position_embeddings": 128}),
    ("GPT2Model", "GPT2Config", {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 128}),
    (
        "GptOssModel",
        "GptOssConfig",
        {
            "head_dim": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0},
        },
    ),
]


def pooled(folder, mode, hidden=64):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": hidden, mode: True}))
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    names = [{"type": f"sentence_transformers.models.{name}", "path": path} for name, path in modules]
    (folder / "modules.json").write_text(json.dumps(names))


#: llama.cpp starts anew for each of them; two are enough for every day.
OFTEN = ("LlamaModel", "Qwen3Model")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("model", "config", "more"),
    [pytest.param(*row, marks=() if row[0] in OFTEN else pytest.mark.slow) for row in DECODERS],
)
def test_decoders_that_embed(model, config, more, causal, tmp_path):
    """Direction of attention and pooling of every decoder: the runtime's embeddings are transformers'."""
    made = saved(tmp_path / "hf", model, config, is_causal=causal, **more)
    pooled(tmp_path / "hf", "pooling_mode_mean_tokens")
    with torch.inference_mode():
        theirs = made(torch.tensor([TEXT])).last_hidden_state[0].mean(0).numpy()
    plan = converted(tmp_path / "hf", tmp_path / "m.gguf")
    windows = {"sliding_window"} if model in ("Gemma3TextModel", "GptOssModel") and not causal else set()
    assert {loss.subject for loss in plan.losses} == windows
    assert near(embedded(tmp_path / "m.gguf")[0], theirs)
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    architecture = fields["general.architecture"].contents()
    assert fields[f"{architecture}.pooling_type"].contents() == 1
    assert (f"{architecture}.attention.causal" in fields) == (not causal)
    execute(plan_conversion(Gguf().read(tmp_path / "m.gguf"), Safetensors(), tmp_path / "back", Request()))
    back = json.loads((tmp_path / "back/config.json").read_text())
    assert back.get("is_causal", True) is causal
    assert json.loads((tmp_path / "back/1_Pooling/config.json").read_text())["pooling_mode_mean_tokens"]


@pytest.mark.parametrize(("mode", "number"), [("mean_tokens", 1), ("cls_token", 2), ("lasttoken", 3)])
def test_ways_of_pooling(mode, number, tmp_path):
    saved(tmp_path / "hf", "LlamaModel", "LlamaConfig")
    pooled(tmp_path / "hf", f"pooling_mode_{mode}")
    converted(tmp_path / "hf", tmp_path / "m.gguf")
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["llama.pooling_type"].contents() == number


def test_an_is_causal_that_is_none(tmp_path):
    saved(tmp_path / "hf", "LlamaModel", "LlamaConfig")
    changed(tmp_path / "hf", is_causal="no")
    with pytest.raises(PlanError, match="is_causal"):
        converted(tmp_path / "hf", tmp_path / "m.gguf")
