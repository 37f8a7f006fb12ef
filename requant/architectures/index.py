"""Which file a family is in, and what names it: so that a conversion imports the table of its family and no other.

To add a family: one file with its rules and keys, one line here; tests/test_architectures_tables.py says what belongs
into the line. Of families that share a ggml architecture, the first that claims a GGUF gets it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Final

from requant.architectures.direction import CAUSAL, DIRECTION
from requant.architectures.pooling import pooling_of
from requant.architectures.rules import Family, never

#: (name of the family in its file, the file, what names it: model types, ggml architecture, classes).
TABLE: Final[tuple[tuple[str, str, str], ...]] = (
    ("LLAVA", "multimodal", "llava LlavaForConditionalGeneration"),
    ("VOXTRAL", "multimodal", "voxtral VoxtralForConditionalGeneration"),
    (
        "SMOLVLM",
        "multimodal",
        "smolvlm idefics3 vllama3 SmolVLMForConditionalGeneration Idefics3ForConditionalGeneration VLlama3ForCausalLM",
    ),
    ("JANUS", "multimodal", "janus JanusForConditionalGeneration"),
    ("SARASHINA2", "multimodal", "sarashina2_vision Sarashina2VisionForCausalLM"),
    ("IQUEST_CODER", "multimodal", "iquestcoder IQuestCoderForCausalLM"),
    ("QWEN2_AUDIO", "multimodal", "qwen2_audio Qwen2AudioForConditionalGeneration"),
    ("AUDIO_FLAMINGO3", "multimodal", "audioflamingo3 AudioFlamingo3ForConditionalGeneration"),
    ("DOTS_OCR", "multimodal", "dots_ocr DotsOCRForCausalLM"),
    ("EXAONE4_5", "multimodal", "exaone4_5 Exaone4_5_ForConditionalGeneration"),
    (
        "GRANITE_SPEECH",
        "multimodal",
        "granite_speech granite_speech_plus GraniteSpeechForConditionalGeneration GraniteSpeechPlusForConditionalGeneration",  # noqa: E501
    ),
    ("PHI4_VISION", "multimodal", "phi4-siglip Phi4ForCausalLMV"),
    ("STEP_VL", "multimodal", "step_robotics step3_vl StepVLForConditionalGeneration"),
    ("LLAVA_STABLELM", "multimodal", "llava_stablelm_epoch LlavaStableLMEpochForCausalLM"),
    (
        "QWEN2_5_OMNI",
        "multimodal",
        "qwen2_5_omni qwen2_5_omni_thinker Qwen2_5OmniModel Qwen2_5OmniForConditionalGeneration",
    ),
    ("QWEN3_ASR", "multimodal", "qwen3_asr Qwen3ASRForConditionalGeneration"),
    ("KIMI_VL", "multimodal", "kimi_vl KimiVLForConditionalGeneration"),
    ("KIMI_K2_5", "multimodal", "kimi_k25 KimiK25ForConditionalGeneration Kimi_K25ForConditionalGeneration"),
    ("YOUTU_VL", "multimodal", "youtu_vl YoutuVLForConditionalGeneration"),
    ("MINICPM_V", "multimodal", "minicpmv4_6 MiniCPMV4_6ForConditionalGeneration"),
    ("MIXTRAL", "llama", "mixtral llama MixtralForCausalLM MixtralModel"),
    ("MISTRAL", "llama", "mistral llama MistralForCausalLM MistralModel"),
    ("INTERNLM3", "internlm", "internlm3 InternLM3ForCausalLM"),
    ("LLAMA", "llama", "llama LlamaForCausalLM LLaMAForCausalLM LlamaModel"),
    ("KORMO", "renamed_llamas", "kormo qwen2 KORMoForCausalLM KORMoModel"),
    ("QWEN2", "qwen", "qwen2 Qwen2ForCausalLM Qwen2Model"),
    ("QWEN2MOE", "qwen", "qwen2_moe qwen2moe Qwen2MoeForCausalLM Qwen2MoeModel"),
    ("QWEN3", "qwen", "qwen3 Qwen3ForCausalLM Qwen3Model Qwen3ForSequenceClassification"),
    ("QWEN3MOE", "qwen", "qwen3_moe qwen3moe Qwen3MoeForCausalLM Qwen3MoeModel"),
    ("GEMMA_EMBEDDING", "gemma3", "gemma3_text gemma3 gemma-embedding Gemma3TextModel"),
    ("GEMMA3", "gemma3", "gemma3_text gemma3 Gemma3ForCausalLM Gemma3ForConditionalGeneration Gemma3TextModel"),
    ("GEMMA4_UNIFIED", "gemma4", "gemma4_unified_text gemma4_unified Gemma4UnifiedForConditionalGeneration"),
    (
        "GEMMA4",
        "gemma4",
        "gemma4_text gemma4 Gemma4ForCausalLM Gemma4ForConditionalGeneration Gemma4TextModel",
    ),
    (
        "GEMMA3N",
        "gemma3n",
        "gemma3n_text gemma3n Gemma3nForCausalLM Gemma3nForConditionalGeneration Gemma3nTextModel",
    ),
    ("PHI3", "phi3", "phi3 Phi3ForCausalLM Phi3Model"),
    ("GPT_OSS", "gpt_oss", "gpt_oss gpt-oss GptOssForCausalLM GptOssModel"),
    ("RUGPT3_XL", "gpt2", "rugpt3xl RuGPT3XLForCausalLM RuGPT3XLModel"),
    ("GPT2", "gpt2", "gpt2 GPT2LMHeadModel GPT2Model"),
    ("JAIS", "gpt2", "jais JAISLMHeadModel JAISModel"),
    (
        "JINA_BERT_V3",
        "nomic_bert",
        "jina_embeddings_v3 xlm-roberta jina-bert-v3 JinaEmbeddingsV3Model XLMRobertaModel",
    ),
    ("JINA_BERT_V2", "jina_bert", "bert jina-bert-v2 JinaBertModel JinaBertForMaskedLM"),
    (
        "XLM_ROBERTA",
        "roberta",
        "xlm-roberta camembert bert XLMRobertaModel XLMRobertaForMaskedLM CamembertModel CamembertForMaskedLM XLMRobertaForSequenceClassification",  # noqa: E501
    ),
    ("ROBERTA", "roberta", "roberta bert RobertaModel RobertaForMaskedLM RobertaForSequenceClassification"),
    ("DISTILBERT", "distilbert", "distilbert bert DistilBertModel DistilBertForMaskedLM"),
    ("BERT", "bert", "bert BertModel BertForMaskedLM BertForSequenceClassification"),
    ("EUROBERT", "eurobert", "eurobert EuroBertModel EuroBertForMaskedLM JinaEmbeddingsV5Model"),
    (
        "MODERN_BERT",
        "modern_bert",
        "modernbert modern-bert ModernBertModel ModernBertForMaskedLM ModernBertForSequenceClassification",
    ),
    ("NOMIC_BERT", "nomic_bert", "nomic_bert nomic-bert NomicBertModel"),
    ("NOMIC_BERT_MOE", "nomic_bert", "nomic_bert nomic-bert-moe NomicBertModel"),
    ("GEMMA", "gemma", "gemma GemmaForCausalLM GemmaModel"),
    ("GEMMA2", "gemma", "gemma2 Gemma2ForCausalLM Gemma2Model"),
    ("GRANITE", "granite", "granite GraniteForCausalLM GraniteModel"),
    ("SMOLLM3", "smollm3", "smollm3 SmolLM3ForCausalLM SmolLM3Model"),
    ("ARCEE", "arcee", "arcee ArceeForCausalLM ArceeModel"),
    ("OLMO", "olmo", "olmo OlmoForCausalLM OlmoModel OLMoForCausalLM"),
    ("OLMO3", "olmo", "olmo3 olmo2 Olmo3ForCausalLM Olmo3Model"),
    ("OLMO2", "olmo", "olmo2 Olmo2ForCausalLM Olmo2Model"),
    ("OLMOE", "olmo", "olmoe OlmoeForCausalLM OlmoeModel"),
    ("COHERE", "cohere", "cohere command-r CohereForCausalLM CohereModel"),
    ("COHERE2", "cohere", "cohere2 Cohere2ForCausalLM Cohere2Model"),
    ("SEED_OSS", "seed_oss", "seed_oss SeedOssForCausalLM SeedOssModel"),
    ("NEMOTRON", "nemotron", "nemotron NemotronForCausalLM NemotronModel"),
    ("STARCODER", "starcoder", "gpt_bigcode starcoder GPTBigCodeForCausalLM GPTBigCodeModel"),
    ("STARCODER2", "starcoder", "starcoder2 Starcoder2ForCausalLM Starcoder2Model"),
    ("STABLELM", "stablelm", "stablelm stablelm_epoch StableLmForCausalLM StableLmModel StableLMEpochForCausalLM"),
    ("ERNIE", "ernie", "ernie4_5 Ernie4_5ForCausalLM Ernie4_5Model Ernie4_5_ForCausalLM"),
    ("PADDLE_OCR", "ernie", "paddleocr_vl paddleocr_vl_text paddleocr PaddleOCRVLForConditionalGeneration"),
    ("HUNYUAN", "hunyuan", "hunyuan_v1_dense hunyuan-dense HunYuanDenseV1ForCausalLM HunYuanDenseV1Model"),
    ("JAIS2", "jais2", "jais2 Jais2ForCausalLM Jais2Model"),
    ("CHATGLM", "older_names", "chatglm ChatGLMForConditionalGeneration ChatGLMModel"),
    ("GLM", "glm", "glm chatglm GlmForCausalLM GlmModel"),
    (
        "GLM4V",
        "glm",
        "glm4v glm4v_text glm_ocr glm_ocr_text glm4 Glm4vForConditionalGeneration GlmOcrForConditionalGeneration",
    ),
    ("GLM4V_MOE", "glm", "glm4v_moe glm4v_moe_text glm4moe Glm4vMoeForConditionalGeneration"),
    ("GLM4", "glm", "glm4 Glm4ForCausalLM Glm4Model"),
    ("SOLAR_OPEN", "glm", "solar_open SolarOpenForCausalLM SolarOpenModel"),
    ("GLM4_MOE", "glm", "glm4_moe glm4moe Glm4MoeForCausalLM Glm4MoeModel"),
    (
        "MISTRAL3",
        "mistral3",
        "ministral3 mistral3 Ministral3ForCausalLM Ministral3Model Mistral3ForConditionalGeneration",
    ),
    (
        "MISTRAL4",
        "mistral4",
        "mistral4 mistral3 Mistral4ForCausalLM Mistral4Model Mistral3ForConditionalGeneration",
    ),
    ("EXAONE4", "exaone", "exaone4 Exaone4ForCausalLM Exaone4Model"),
    ("EXAONE_MOE", "exaone", "exaone_moe exaone-moe ExaoneMoeForCausalLM ExaoneMoeModel ExaoneMoEForCausalLM"),
    ("HY_V3", "hunyuan", "hy_v3 HYV3ForCausalLM HYV3Model"),
    ("DOTS1", "dots1", "dots1 Dots1ForCausalLM Dots1Model"),
    ("PHI2", "phi", "phi phi2 PhiForCausalLM PhiModel"),
    ("MINIMAX_M2", "minimax", "minimax_m2 minimax-m2 MiniMaxM2ForCausalLM MiniMaxM2Model"),
    (
        "QWEN2_VL",
        "qwen_vl",
        "qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text qwen2vl Qwen2VLForConditionalGeneration Qwen2_5_VLForConditionalGeneration Qwen2VLModel",  # noqa: E501
    ),
    ("QWEN3_VL", "qwen_vl", "qwen3_vl qwen3_vl_text qwen3vl Qwen3VLForConditionalGeneration"),
    (
        "QWEN35",
        "qwen35",
        "qwen3_5_text qwen3_5 qwen35 Qwen3_5ForCausalLM Qwen3_5Model Qwen3_5ForConditionalGeneration Qwen3_5TextModel",
    ),
    (
        "QWEN35MOE",
        "qwen35",
        "qwen3_5_moe_text qwen3_5_moe qwen35moe Qwen3_5MoeForCausalLM Qwen3_5MoeForConditionalGeneration Qwen3_5MoeModel Qwen3_5MoeTextModel",  # noqa: E501
    ),
    ("QWEN3_NEXT", "qwen3_next", "qwen3_next qwen3next Qwen3NextForCausalLM Qwen3NextModel"),
    ("GPT_NEOX", "gpt_neox", "gpt_neox gptneox GPTNeoXForCausalLM"),
    ("BLOOM", "gpt_neox", "bloom BloomForCausalLM BloomModel"),
    ("ERNIE_MOE", "ernie_moe", "ernie4_5_moe ernie4_5-moe Ernie4_5_MoeForCausalLM Ernie4_5_MoeModel"),
    ("FALCON", "falcon", "falcon RefinedWeb RefinedWebModel FalconForCausalLM FalconModel RWForCausalLM"),
    (
        "GRANITE_MOE_SHARED",
        "granite_moe",
        "granitemoeshared granitemoe GraniteMoeSharedForCausalLM GraniteMoeSharedModel",
    ),
    ("GRANITE_MOE", "granite_moe", "granitemoe GraniteMoeForCausalLM GraniteMoeModel"),
    ("MISTRAL_LARGE3", "mistral4", "mistral_large_3 deepseek2 MistralLarge3ForCausalLM"),
    ("DEEPSEEK", "deepseek", "deepseek DeepseekForCausalLM DeepseekModel"),
    (
        "DEEPSEEK_OCR",
        "deepseek",
        "deepseekocr DeepseekOCR deepseek_ocr unlimited_ocr deepseek2-ocr DeepseekOCRForCausalLM UnlimitedOCRForCausalLM",  # noqa: E501
    ),
    ("YOUTU", "deepseek", "youtu deepseek2 YoutuForCausalLM YoutuModel"),
    ("DEEPSEEK2", "deepseek", "deepseek_v2 deepseek2 DeepseekV2ForCausalLM DeepseekV2Model"),
    ("GLM4_MOE_LITE", "deepseek", "glm4_moe_lite deepseek2 Glm4MoeLiteForCausalLM Glm4MoeLiteModel"),
    ("DEEPSEEK3", "deepseek", "deepseek_v3 kimi_k2 deepseek2 DeepseekV3ForCausalLM DeepseekV3Model"),
    ("DEEPSEEK32", "indexed", "deepseek_v32 deepseek32 DeepseekV32ForCausalLM DeepseekV32Model"),
    ("DEEPSEEK4", "deepseek4", "deepseek_v4 deepseek4 DeepseekV4ForCausalLM DeepseekV4Model"),
    ("GLM_DSA", "indexed", "glm_moe_dsa glm-dsa GlmMoeDsaForCausalLM GlmMoeDsaModel"),
    ("KIMI_LINEAR", "kimi_linear", "kimi_linear kimi-linear KimiLinearForCausalLM KimiLinearModel"),
    ("INTERNLM2", "internlm", "internlm2 InternLM2ForCausalLM InternLM2Model"),
    ("BAICHUAN", "baichuan", "baichuan BaichuanForCausalLM BaichuanModel BaiChuanForCausalLM"),
    ("XVERSE", "baichuan", "xverse XverseForCausalLM XverseModel"),
    ("ORION", "baichuan", "orion OrionForCausalLM OrionModel"),
    ("DREAM", "diffusion", "Dream dream DreamModel"),
    ("RND1", "diffusion", "rnd1 RND1"),
    ("LLADA_MOE", "diffusion", "llada llada-moe LLaDAMoEModelLM LLaDAMoEModel"),
    ("LLADA", "diffusion", "llada LLaDAModelLM"),
    ("EXAONE", "renamed_llamas", "exaone ExaoneForCausalLM ExaoneModel"),
    ("MINICPM", "renamed_llamas", "minicpm MiniCPMForCausalLM MiniCPMModel"),
    (
        "PANGU",
        "renamed_llamas",
        "PanguEmbedded pangu_embedded pangu-embedded PanguEmbeddedForCausalLM PanguEmbeddedModel",
    ),
    ("MAINCODER", "renamed_llamas", "maincoder MaincoderForCausalLM MaincoderModel"),
    ("NANBEIGE", "renamed_llamas", "nanbeige NanbeigeForCausalLM NanbeigeModel"),
    ("LLAMA_EMBED", "renamed_llamas", "llama_bidirec llama-embed LlamaBidirectionalModel"),
    ("QWEN", "older_names", "qwen QWenLMHeadModel"),
    ("CODESHELL", "older_names", "codeshell CodeShellForCausalLM CodeShellModel"),
    ("REFACT", "older_names", "gpt_refact refact GPTRefactForCausalLM"),
    ("MPT", "older_names", "mpt MptForCausalLM MptModel MPTForCausalLM"),
    ("AFMOE", "afmoe", "afmoe AfmoeForCausalLM AfmoeModel"),
    ("MELLUM", "afmoe", "mellum MellumForCausalLM MellumModel"),
    ("PHI_MOE", "phi_moe", "phimoe PhimoeForCausalLM PhimoeModel PhiMoEForCausalLM"),
    ("COHERE2_MOE", "cohere", "cohere2_moe cohere2moe Cohere2MoeForCausalLM Cohere2MoeModel"),
    ("GRANITE_MOE_SWA", "granite_swa", "granitemoe_swa granite_swa GraniteMoeSWAForCausalLM GraniteMoeSWAModel"),
    ("GRANITE_SWA", "granite_swa", "granite_swa GraniteSWAForCausalLM GraniteSWAModel"),
    ("MUSE_GLIMMER", "muse", "muse_glimmer_text muse_glimmer muse-glimmer MuseGlimmerForConditionalGeneration"),
    ("HUNYUAN_MOE", "hunyuan", "hunyuan_v1_moe hunyuan-moe HunYuanMoEV1ForCausalLM HunYuanMoEV1Model"),
    ("APERTUS", "apertus", "apertus ApertusForCausalLM ApertusModel"),
    ("BAILING_MOE", "bailing", "bailing_moe bailingmoe BailingMoeForCausalLM BailingMoeModel"),
    ("SARVAM_MOE", "bailing", "sarvam_moe SarvamMoEForCausalLM modeling_sarvam_moe.SarvamMoEForCausalLM"),
    ("BAILING_MOE2", "bailing", "bailing_moe_v2 bailingmoe2 BailingMoeV2ForCausalLM BailingMoeV2Model"),
    ("T5_ENCODER", "t5", "t5 mt5 umt5 t5encoder T5EncoderModel"),
    ("T5", "t5", "t5 mt5 T5ForConditionalGeneration MT5ForConditionalGeneration T5WithLMHeadModel"),
    ("UMT5", "t5", "umt5 t5 UMT5ForConditionalGeneration UMT5Model"),
    ("GROVE_MOE", "grove", "grove_moe grovemoe GroveMoeForCausalLM modeling_grove_moe.GroveMoeForCausalLM"),
    ("SMALL_THINKER", "grove", "smallthinker SmallThinkerForCausalLM SmallThinkerModel"),
    ("ARCTIC", "grove", "arctic ArcticForCausalLM ArcticModel"),
    ("QWEN3_VL_MOE", "packed", "qwen3_vl_moe qwen3_vl_moe_text Qwen3VLMoeForConditionalGeneration"),
    ("QWEN3_OMNI", "packed", "qwen3_omni_moe qwen3_omni_moe_thinker Qwen3OmniMoeForConditionalGeneration"),
    ("QWEN3_VL_MOE_TEXT", "packed", "qwen3_moe qwen3vlmoe Qwen3MoeForCausalLM Qwen3MoeModel"),
    ("LLAMA4", "packed", "llama4_text llama4 Llama4ForCausalLM Llama4ForConditionalGeneration"),
    ("LFM2_BIDIRECTIONAL", "lfm2", "lfm2_bidirectional lfm2 Lfm2BidirectionalModel"),
    ("LFM2", "lfm2", "lfm2 Lfm2ForCausalLM Lfm2Model LFM2ForCausalLM"),
    ("LFM2_MOE", "lfm2", "lfm2_moe lfm2moe Lfm2MoeForCausalLM Lfm2MoeModel"),
    ("FALCON_MAMBA", "mamba", "falcon_mamba mamba FalconMambaForCausalLM FalconMambaModel"),
    ("MAMBA", "mamba", "mamba MambaForCausalLM MambaModel MambaLMHeadModel"),
    ("MAMBA2", "mamba", "mamba2 Mamba2ForCausalLM Mamba2Model"),
    ("BAMBA", "bamba", "bamba granitehybrid BambaForCausalLM BambaModel"),
    (
        "GRANITE_HYBRID",
        "granite_hybrid",
        "granitemoehybrid granitehybrid GraniteMoeHybridForCausalLM GraniteMoeHybridModel",
    ),
    ("FALCON_H1", "falcon_h1", "falcon_h1 falcon-h1 FalconH1ForCausalLM FalconH1Model"),
    ("JAMBA", "jamba", "jamba JambaForCausalLM JambaModel"),
    ("NEMOTRON_H", "nemotron_h", "nemotron_h NemotronHForCausalLM NemotronHModel"),
    ("NEMOTRON_H_MOE", "nemotron_h", "nemotron_h nemotron_h_moe NemotronHForCausalLM NemotronHModel"),
    ("MINICPM3", "latent", "minicpm3 MiniCPM3ForCausalLM MiniCPM3Model"),
    ("PLM", "latent", "plm PLMForCausalLM PLMModel"),
    ("DBRX", "dbrx", "dbrx DbrxForCausalLM DbrxModel"),
    ("OPENELM", "openelm", "openelm OpenELMForCausalLM OpenELMModel"),
    ("PLAMO3", "plamo", "plamo3 Plamo3ForCausalLM PLaMo3ForCausalLM Plamo3Model"),
    ("RWKV7", "rwkv", "rwkv7 RWKV7ForCausalLM Rwkv7ForCausalLM RWKV7Model"),
    ("NEO_BERT", "neobert", "neobert neo-bert NeoBERT NeoBERTLMHead NeoBERTForSequenceClassification"),
)


def words_of(family: Family) -> tuple[str, ...]:
    """What names a family in config.json or in a GGUF, as `TABLE` has it."""
    scoring = family.classifier.classes if family.classifier is not None else ()
    architecture = () if family.claims is never else (family.ggml,)
    return tuple(dict.fromkeys((family.model_type, *family.other_types, *architecture, *family.classes, *scoring)))


def every() -> tuple[Family, ...]:
    """All families, in the order of the table."""
    return tuple(_loaded(name, file) for name, file, _ in TABLE)


def named(words: Iterable[str]) -> tuple[Family, ...]:
    """The families that any of these words names; all of them where a word is of none: an error will list them."""
    asked = set(filter(None, words))
    if not asked or not asked <= _known():
        return every()
    return tuple(_loaded(name, file) for name, file, own in TABLE if asked & set(own.split()))


@cache
def _known() -> frozenset[str]:
    return frozenset(word for _, _, own in TABLE for word in own.split())


@cache
def _loaded(name: str, file: str) -> Family:
    """A family with what every family has: pooling, and the direction of attention where the table leaves it open."""
    family: Family = getattr(importlib.import_module(f"requant.architectures.{file}"), name)
    settled = any(key.ggml == CAUSAL for key in family.keys)
    scores = () if family.classifier is None else (family.classifier.pair(family),)
    return replace(
        family, irregular=(*family.irregular, pooling_of(family.ggml), *(() if settled else (DIRECTION,)), *scores)
    )
