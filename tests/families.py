"""docs/families.md, docs/projectors.md and README.md's list of families, from the tables: `python -m tests.families`
writes them."""

import re
from pathlib import Path

from requant.architectures import ARCHITECTURES
from requant.architectures.overview import overview
from requant.projectors import index
from tests.tiny_published import PUBLISHED

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "families.md"
README = ROOT / "README.md"
#: What llama.cpp's converter takes.
CLASSES = (ROOT / "fixtures" / "architectures" / "classes.txt").read_text().split()
PROJECTORS = ROOT / "docs" / "projectors.md"
#: The classes of each of its converters for projectors, a line each.
CONVERTERS = [line.split() for line in (ROOT / "fixtures" / "projectors" / "classes.txt").read_text().splitlines()]
_DRAFTS = """DFlash2DraftModel DFlashDraftModel DSparkDraftModel DSparkSpeculator DeepseekV4DSparkModel Eagle3DraftModel
    Eagle3LlamaForCausalLM Eagle3Speculator Gemma4AssistantForCausalLM Gemma4DSparkModel
    Gemma4UnifiedAssistantForCausalLM Lfm2DSparkDraftModel LingDSparkModel LlamaForCausalLMEagle3
    MuseGlimmerAssistantModel Qwen3DSparkModel"""
_TO_COMPARE = """ChameleonForCausalLM ChameleonForConditionalGeneration Dots3NoteForCausalLM
    Dots3NoteForConditionalGeneration Dots3NoteTextForCausalLM EmbeddingGemma2Model Glm5NextForConditionalGeneration
    HYV4ForCausalLM HrmTextForCausalLM HunYuanVLForConditionalGeneration LagunaForCausalLM MiMoV2FlashForCausalLM
    MiniMaxM3SparseForConditionalGeneration Qwen4ExpForCausalLM Qwen4ExpForConditionalGeneration
    Step3p7ForConditionalGeneration"""
_REST = "no table yet, and no class in transformers that their logits could be compared with"
#: Why classes that llama.cpp's converter takes are not taken here; `_REST` of all others.
WHY = {
    "drafts, which guess tokens for another model and are nothing without it": _DRAFTS,
    "they make sounds": "Lfm25AudioTokenizer PocketTTSModel Qwen3TTSForConditionalGeneration WavTokenizerDec",
    "no text model: llama.cpp's converter refuses it, too, and takes its projector": "UltravoxModel",
    "llama.cpp computes something else: SiLU, where the model squares what is positive": "BitNetForCausalLM",
    "llama.cpp computes something else: tanh before the last layer, where the model has ReLU": (
        "DistilBertForSequenceClassification"
    ),
    "the converter rounds the weights, and llama.cpp does not round what goes into layers, as the model does": (
        "BitnetForCausalLM"
    ),
    "the converter has the sizes of one model as constants": "PlamoForCausalLM",
    "no table yet; transformers has a class to compare with": _TO_COMPARE,
}
_TABLE = re.compile("(<!-- table -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD = """# Model families

What converts from a Hugging Face folder to a GGUF and back; `requant families` prints the same. Each is a table that is
read in both directions (`requant/architectures`). For every family a small random model has the tensors and metadata
that llama.cpp's own converter writes, llama.cpp's logits (of an encoder, its embeddings) are transformers', and the way
back gives every tensor back bit for bit (`tests/test_architectures.py`, `tests/test_architectures_run.py`; the
logarithms of decays, which a GGUF has as powers, and PLaMo's norms, to which a fifth is added, but for the rounding of
float32; what a GGUF has multiplied by factors of config.json comes back multiplied, with factors of 1). Models that
transformers has no class for are made from the configurations and names of their publishers; their logits are those of
the transformers model that computes the same, where there is one.

Of sentence-transformers' modules, the way of pooling becomes `pooling_type`, and matrices behind it (`2_Dense`,
`3_Dense`) become tensors where llama.cpp has a place for them: in EmbeddingGemma, as its converter does with
`--sentence-transformers-dense-modules`, and in LFM2. Embeddings are then those behind the modules
(`tests/test_dense_modules.py`). Other modules are told as lost; from folder to folder they are carried along.

The logits of RWKV 7 are those of its paper's formulas in numpy (`tests/test_rwkv.py`); those of a T5 are transformers'
before it divides them by the root of the model's width, which llama.cpp does not, and which is told. Where an indexer
chooses tokens (DeepSeek V3.2 and V4, GLM-5), llama.cpp chooses those that transformers chooses, but for scores as close
as rounding lets them be.

DeepSeek V4 is read by the names of the release and by those that transformers saves, and becomes a folder with the
names of the release. Its 4-bit experts are MXFP4 in a GGUF of the recipe COPY, with the same codes; the converter can
write no other. It also writes a chat template of its own where the release has none, which requant does not. llama.cpp
stops at a V4 whose heads are as wide as its indexer's, which is refused (`tests/test_deepseek4.py`).

Where a GGUF says more than the converter's, or something else, `tests/test_architectures.py` lists every key with the
reason (`MORE`, `OTHER`, `REORDERED`): what transformers 5 no longer writes and the converter so leaves out, above all
the function of gates; what llama.cpp would take anyway; lists of windows that it forgets; contexts that it writes
whatever config.json says (Hunyuan, hybrids of Granite and Nemotron); half of Solar's rotation. `WITHOUT_GOLDEN` there
are the models that it cannot convert or takes for others: CamemBERT, Jina 3 by transformers' names, Baichuan, Granite
Speech, StableLM with norms of heads, Mistral 4 without eyes, Bamba, DeepSeek V4 by transformers' names.

InternVL, LFM2-VL, Cohere 2 Vision and LightOnOCR see around a text model of any of these families: config.json says
which, in `text_config` (or `llm_config`), and it is converted as that (`requant/architectures/around.py`).

NeoBERT's GGUF has the rows of queries, keys and values in the order of llama.cpp's graph. Its converter leaves them in
that of the release, by heads, and what llama.cpp computes from its file is not what NeoBERT computes (b11549).

Mistral's own folders (`params.json`, `consolidated*.safetensors`, `tekken.json`; no config.json) are read as well:
dense models and Mixtrals, also in FP8, to a GGUF or to a folder that transformers loads. The GGUF has every tensor and
key that `convert_hf_to_gguf.py --mistral-format` writes (`tests/test_consolidated.py`; of folders with experts that
converter, in b11549, asks for a config.json, which they do not have). With latent attention and experts (Mistral Large
3) it is the GGUF that the converter's `MistralMoeModel` writes, a `deepseek2`, and becomes a folder of transformers'
Mistral 4, which computes the same (`tests/test_consolidated_latent.py`).
"""


def page():
    """docs/families.md."""
    rows = overview(ARCHITECTURES)
    taken = {name for row in rows for name in row.classes}
    lines = ["| GGUF | `model_type` | classes | a GGUF becomes | lost where a model has it |", "|---|---|---|---|---|"]
    for row in rows:
        lost = "; ".join(row.lost)
        lines.append(f"| {row.architecture} | {row.model_type} | {', '.join(row.classes)} | {row.back} | {lost} |")
    missing = [name for name in CLASSES if name not in taken]
    count = (
        f"Of the {len(CLASSES)} names of classes that llama.cpp's converter takes as text models (b11549, October "
        f"2026), requant takes {len(CLASSES) - len(missing)}; {len(taken - set(CLASSES))} more it takes besides."
    )
    alone = (
        "Not compared with transformers, which has no class that computes the same (llama.cpp loads and runs them; "
        f"tensors and metadata are those of its converter): {', '.join(unseen())}."
    )
    return "\n".join([_HEAD, count, "", *lines, "", alone, "", "Not taken:", "", *reasons(missing), ""])


def reasons(missing):
    """A line for each reason, with the classes that are not taken for it; every class stands in one."""
    groups = {why: names.split() for why, names in WHY.items()}
    explained = [name for names in groups.values() for name in names]
    assert len(explained) == len(set(explained)) and set(explained) <= set(missing), set(explained) - set(missing)
    groups[_REST] = [name for name in missing if name not in explained]
    return [f"- {why}: {', '.join(names)}." for why, names in groups.items()]


def unseen():
    """Architectures none of whose tiny models could be compared with transformers' logits."""
    shown, alone = set(), set()
    for model in PUBLISHED.values():
        names = {
            f.ggml
            for f in ARCHITECTURES
            if set(f.classes) & set(model.config["architectures"]) and f.suits(model.config)
        }
        (shown if model.twin else alone).update(names)
    return sorted(alone - shown)


def projectors():
    """docs/projectors.md with the table in its place."""
    rows = sorted(index.every(), key=lambda row: row.name)
    taken = {name for row in rows for name in row.classes}
    done = [names for names in CONVERTERS if taken & set(names)]
    missing = sorted(name for names in CONVERTERS for name in names if name not in taken)
    lines = [
        "| projector | `clip.projector_type` | classes | with a text model's GGUF, a folder of | lost |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        back = ", ".join(f"{folder.name} ({', '.join(folder.texts)})" for folder in row.folders)
        lines.append(
            f"| {row.name} | {', '.join(row.kinds)} | {', '.join(row.classes)} | {back} | {'; '.join(row.lost)} |"
        )
    count = (
        f"Of the {len(CONVERTERS)} converters that llama.cpp has for projectors (b11549, October 2026), requant does "
        f"the work of {len(done)}."
    )
    made = "\n".join([count, "", *lines, "", "Not taken: " + ", ".join(missing) + "."])
    text, places = _TABLE.subn(lambda found: f"{found[1]}{made}\n{found[2]}", PROJECTORS.read_text())
    assert places == 1, "docs/projectors.md has no place for the table"
    return text


def listed():
    """README.md's list: every architecture once."""
    names = list(dict.fromkeys(row.architecture for row in overview(ARCHITECTURES)))
    words, lines = ", ".join(names).split(" "), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 118:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def readme(text):
    """README.md with the list in its place."""
    return re.sub(r"(<!-- families -->\n).*?(\n<!-- /families -->)", rf"\1{listed()}\2", text, flags=re.DOTALL)


if __name__ == "__main__":
    DOCS.write_text(page())
    PROJECTORS.write_text(projectors())
    README.write_text(readme(README.read_text()))
