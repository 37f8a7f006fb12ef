"""Repetitions of repetitions in a tokenizer's pattern cut text as Oniguruma cuts it."""

import itertools

import pytest
from tokenizers import Regex, pre_tokenizers

from requant.patterns import Patience
from requant.tokenizers.splitting import _theirs

PATTERNS = [
    r"\p{N}{2}{2}",
    r"\p{N}{1,2}+",
    r"(?:\p{N}{3})+",
    r"\p{N}{1,3}(?=(?:\p{N}{3})*\b)",
    r"\p{L}+{2}",
    r"(?:a|b)*+c",
    r"a{2}?",
    r"a{1,3}?",
    r"a+?b",
    r"[a-c]{1,2}{1,2}",
    r"(?:ab){2}{1,2}",
    r"\s+(?!\S)|\s+",
    r"(?i:'s|'t)|\p{L}{1,2}{2}",
    r"{2}a|a{x}",
]
TEXTS = ["aaaa aab abab abac", "1234567 12 123", "aaabbbccc ababab", "  two   three", "it's a{x} {2}a", "12ab34"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("text", TEXTS)
def test_cut_as_tokenizers_does(pattern, text):
    try:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
    except Exception:  # no pattern to Oniguruma either
        pytest.skip("not read by tokenizers")
    theirs = [span for _, span in split.pre_tokenize_str(text)]
    cuts = {0, len(text)}
    for start, stop in _theirs(pattern, Patience())(text):
        cuts |= {start, stop}  # an empty match cuts, too
    edges = sorted(cuts)
    assert list(itertools.pairwise(edges)) == theirs
