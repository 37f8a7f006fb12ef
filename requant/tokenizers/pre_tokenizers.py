"""llama.cpp's pre-tokenizers: for each `tokenizer.ggml.pre` name, what the Hugging Face tokenizer behind it does.

Names and flags: `llama_vocab::impl::load` in src/llama-vocab.cpp; which model has which name: conversion/base.py;
the regular expressions are those of the models' tokenizer.json files, which llama.cpp re-implements. One table
serves both directions: `requant.tokenizers.recognize` finds the row that does what a tokenizer.json does,
`requant.tokenizers.to_hf` writes a row as a tokenizer.json.
"""

from __future__ import annotations

from dataclasses import dataclass

#: GPT-2's split, built into HF's `ByteLevel` when `use_regex` is set.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_HEAD = r"[^\r\n\p{L}\p{N}]?"
_SLASH_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

LLAMA3 = rf"{_ENGLISH}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{_ENGLISH}|{_WORD}|\p{{N}}|{_REST}"
# marks and joiners are parts of words
K2_HORIZON = rf"{_ENGLISH}|{_HEAD}(?:\p{{L}}|\p{{M}}|\u200C|\u200D)+|\p{{N}}{{1,3}}|{_REST}"
QWEN35 = (
    rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = rf"{_HEAD}{_UPPER}*{_LOWER}+{_ENGLISH}?|{_HEAD}{_UPPER}+{_LOWER}*{_ENGLISH}?|\p{{N}}{{1,3}}|{_SLASH_REST}"
TEKKEN = rf"{_HEAD}{_UPPER}*{_LOWER}+|{_HEAD}{_UPPER}+{_LOWER}*|\p{{N}}|{_SLASH_REST}"
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NO_HAN_UPPER, _NO_HAN_LOWER = rf"(?:(?!\p{{Han}}){_UPPER})", rf"(?:(?!\p{{Han}}){_LOWER})"
KIMI_K2 = (
    rf"\p{{Han}}+|{_HEAD}{_NO_HAN_UPPER}*{_NO_HAN_LOWER}+{_ENGLISH}?|{_HEAD}{_NO_HAN_UPPER}+{_NO_HAN_LOWER}*{_ENGLISH}?"
    rf"|\p{{N}}{{1,3}}|{_REST}"
)
_ASIAN = "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+"
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
_CJK = "[一-龥぀-ゟ゠-ヿ]+"
_CJK_OLD = "[一-龥ࠀ-一가-퟿]+"
_CASED = (
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7d"
    "ᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ"
    r"-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way of cutting text into words before bytes are merged.

    name: what `tokenizer.ggml.pre` says. splits: regular expressions; each cuts every piece of the one before into
    matches and what lies between. normalizer: HF's `NFC` or none; llama.cpp has none.
    ignore_merges: a word that is a token is not merged. clean_spaces: " ." becomes "." when ids are turned into text.
    add_bos, add_sep: what llama.cpp does when the file does not say. aliases: other names of the same behaviour.
    recognized: false for rows that are only written, since a commoner name does the same.
    """

    name: str
    splits: tuple[str, ...]
    normalizer: str = ""
    ignore_merges: bool = False
    clean_spaces: bool = True
    add_bos: bool = False
    add_sep: bool = False
    aliases: tuple[str, ...] = ()
    recognized: bool = True


#: Of rows that do the same, the first that also agrees in the flags is used: common names come before rare ones.
PRE_TOKENIZERS: tuple[PreTokenizer, ...] = (
    PreTokenizer(
        "llama-bpe",
        (LLAMA3,),
        ignore_merges=True,
        add_bos=True,
        aliases=(
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ),
    ),
    PreTokenizer("qwen2", (QWEN2,), "NFC", clean_spaces=False, aliases=("deepseek-r1-qwen", "kormo", "f2llmv2")),
    PreTokenizer(
        "gpt-2",
        (GPT2,),
        aliases=(
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "exaone4",
            "jais",
        ),
    ),
    PreTokenizer("smollm", (r"\p{N}", GPT2), clean_spaces=False),
    PreTokenizer("starcoder", (r"\p{N}", GPT2), aliases=("refact", "codeshell", "exaone", "minerva-7b", "mellum2")),
    PreTokenizer("command-r", (r"\p{N}", GPT2), "NFC", clean_spaces=False),
    PreTokenizer("tekken", (TEKKEN,), ignore_merges=True, clean_spaces=False, add_bos=True),
    PreTokenizer("gpt-4o", (GPT4O,), clean_spaces=False, aliases=("llama4", "kanana2", "talkie", "minimax-m2")),
    PreTokenizer(
        "deepseek-v3",
        (r"\p{N}{1,3}", _CJK, DEEPSEEK3),
        clean_spaces=False,
        aliases=("hunyuan-dense", "joyai-llm", "hy_v4"),
    ),
    PreTokenizer("kimi-k2", (KIMI_K2,), clean_spaces=False),
    PreTokenizer("k2-horizon", (K2_HORIZON,)),
    PreTokenizer("afmoe", (r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", _ASIAN, DEEPSEEK3), clean_spaces=False),
    PreTokenizer("qwen35", (QWEN35,), clean_spaces=False),
    PreTokenizer("olmo", (GPT2,), "NFC", aliases=("mpt", "modern-bert")),
    PreTokenizer("roberta-bpe", (GPT2,), add_sep=True, aliases=("jina-v1-en", "jina-v2-code")),
    PreTokenizer("granite-docling", (GPT2,), clean_spaces=False, aliases=("trillion",)),
    PreTokenizer("falcon", (r"[\p{P}$+<=>^~|`]+", GPT2, r"[0-9]+", r"[0-9][0-9][0-9]")),
    PreTokenizer(
        "deepseek-llm",
        (r"[\r\n]", _CASED, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _CJK_OLD, r"\p{N}"),
        clean_spaces=False,
    ),
    PreTokenizer("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_OLD, r"\p{N}"), clean_spaces=False),
    PreTokenizer("smaug-bpe", (LLAMA3,), aliases=("dbrx",)),
    PreTokenizer("glm4", (LLAMA3,), ignore_merges=True, aliases=("glm5",), recognized=False),
    PreTokenizer("chatglm-bpe", (LLAMA3,), recognized=False),
    PreTokenizer("stablelm2", (QWEN2,), "NFC", aliases=("megrez",)),
    PreTokenizer("solar-open", (QWEN2,), clean_spaces=False, aliases=("hunyuan", "grok-2"), recognized=False),
    PreTokenizer("ufakzeka", (rf"{_WORD}|\p{{N}}|{_REST}",), clean_spaces=False),
    PreTokenizer("bloom", (BLOOM,), aliases=("gpt3-finnish",)),
    PreTokenizer("poro-chat", (BLOOM,), clean_spaces=False),
    PreTokenizer("viking", (BLOOM, r"\p{N}"), clean_spaces=False),
    PreTokenizer(
        "jais-2",
        (
            rf"{_ENGLISH}|{_WORD}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"
            + "".join(rf"\s{{{n}}}(?!\S)|" for n in (512, 256, 128, 64, 32, 16, 8, 4))
            + r"\s{1,2}(?!\S)|\s{1}",
        ),
    ),
    PreTokenizer(
        "spark2_5",
        (
            r"\p{N}{1,3}",
            _CJK,
            DEEPSEEK3.replace(r"[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+", r"[\p{P}\p{S}]+|[\r\n]"),
            r"\p{N}",
        ),
        clean_spaces=False,
    ),
    PreTokenizer(
        "youtu",
        (
            "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
            GPT4O.replace(r"\p{N}{1,3}", r"\p{N}"),
        ),
        ignore_merges=True,
        clean_spaces=False,
    ),
    PreTokenizer(
        "bailingmoe",
        (rf"'(?i:[sdmt]|ll|ve|re)|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",),
        clean_spaces=False,
        aliases=("bailingmoe2", "llada-moe"),
        recognized=False,
    ),
    PreTokenizer(
        "seed-coder",
        (rf"{_ENGLISH}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",),
        clean_spaces=False,
    ),
    PreTokenizer(
        "exaone-moe",
        (
            rf"{_ENGLISH}|{_HEAD}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?"
            r"|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
    PreTokenizer("minicpm5", (r"\p{N}{1,3}", rf"{_ENGLISH}|{_WORD}|\p{{N}}+|{_REST}"), ignore_merges=True),
    PreTokenizer("laguna", (r"[^\n]+|[\n]+", QWEN2), clean_spaces=False),
    PreTokenizer(
        "granite-embed-multi-97m",
        (GPT4O,),
        ignore_merges=True,
        clean_spaces=False,
    ),
    PreTokenizer("superbpe", (r"\p{N}+", r"(?=(\d{3})+(?!\d))"), clean_spaces=False),
    PreTokenizer("tiny_aya", (r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O), clean_spaces=False, aliases=("cohere2moe",)),
    PreTokenizer(
        "chameleon",
        (
            r"<sentinel:[0-9]+>",
            r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ),
        clean_spaces=False,
        add_bos=True,
    ),
    PreTokenizer("default", (r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
)

#: Every name llama.cpp knows that is in the table, aliases included.
BY_NAME = {name: row for row in PRE_TOKENIZERS for name in (row.name, *row.aliases)}
