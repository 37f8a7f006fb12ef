"""Patterns of strangers are matched as their libraries do, with a bound: tested with harmless ones and a counter."""

import ast
import fnmatch
import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requant.errors import UnsupportedError
from requant.formats.folding.gptq_config import GptqConfig
from requant.json_values import Item
from requant.patterns import (
    MAX_UNROLLED,
    Patience,
    Pattern,
    PatternError,
    regular_expression,
    unrolled,
    wildcard,
)
from requant.tokenizers import splitting
from requant.tokenizers.recognize import recognize

ROOT = Path(__file__).parents[1]
MODULES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.10.mlp.down_proj",
    "model.layers.1.mlp.gate",
    "model.visual.blocks.3.attn.qkv",
    "lm_head",
]
#: As GPTQModel's and llm-compressor's users write them.
PUBLISHED = [
    r".*\.1\..*(?:gate|up|down).*",
    r"^(?!.*self_attn).*",
    r"model\.layers\.(0|1|2)\.",
    ".*lm_head",
    r"(?i).*MLP.*",
    r"model\.visual.*",
    r".*\.(\d+)\..*(?<!q_proj)$",
    r"re_?(.)\1",
]


@pytest.mark.parametrize("text", PUBLISHED)
def test_it_is_the_grammar_of_re(text):
    pattern = regular_expression(text, Patience())
    for module in MODULES:
        assert pattern.matches(module) == (re.match(text, module) is not None)
        assert pattern.found_in(module) == (re.search(text, module) is not None)
        assert pattern.matches_whole(module) == (re.fullmatch(text, module) is not None)
        assert list(pattern.spans(module)) == [match.span() for match in re.finditer(text, module)]


@given(text=st.text("ab.*?[]!-", max_size=8), name=st.text("ab.-", max_size=8))
def test_wildcards_are_those_of_fnmatch(text, name):
    assert wildcard(text, Patience()).matches_whole(name) == fnmatch.fnmatchcase(name, text)


def test_patience_is_spent_by_every_match_and_ends():
    """The clock is a counter: it is looked at before and after each match, which therefore costs one."""
    patience = Patience(10, clock=itertools.count().__next__)
    pattern = regular_expression("a|b", patience)
    other = regular_expression("c", patience)
    assert [pattern.matches("b"), other.found_in("xc"), list(pattern.spans("ab"))] == [True, True, [(0, 1), (1, 2)]]
    assert patience.seconds == 7
    for _ in range(7):
        pattern.matches_whole("a")
    with pytest.raises(PatternError, match=r"'c' takes too long to match"):
        other.matches("c")
    with pytest.raises(PatternError, match=r"'a\|b' takes too long to match"):
        pattern.matches("a")


def test_the_engine_is_given_what_is_left():
    """Every way of matching hands on the limit; what the engine gives up on is refused by name, and so is all after."""

    class Engine:
        def __init__(self):
            self.limits = []

        def match(self, text, *, timeout):
            self.limits.append(timeout)
            if len(self.limits) == 5:
                raise TimeoutError

        fullmatch = search = match

        def finditer(self, text, *, timeout):
            return iter([]) if self.match(text, timeout=timeout) is None else None

    engine, patience = Engine(), Patience(100, clock=itertools.count(step=2).__next__)
    pattern = Pattern("p", patience, engine)
    pattern.matches("a"), pattern.matches_whole("a"), pattern.found_in("a"), list(pattern.spans("a"))
    with pytest.raises(PatternError):
        pattern.matches("a")
    assert engine.limits == [100, 98, 96, 94, 92]
    with pytest.raises(PatternError):
        pattern.matches("a")
    assert len(engine.limits) == 5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("(unclosed", "is no regular expression"),
        ("a" * 5000, "has more than 4096 characters"),
        ("a{9999999999999}", "repeats more often than any text is long"),
        ("(?:(?:a{200}){200}){200}", "repeats more often than any text is long"),
        ("(" * 60 + ")" * 60, "has more than 50 groups inside each other"),
        ("a(?#{)b", "has comments inside"),
        ("(?x) a", "has comments inside"),
    ],
)
def test_what_is_not_compiled(text, why):
    with pytest.raises(PatternError, match=re.escape(why)):
        regular_expression(text, Patience())


#: (pattern, atoms once repetitions are written out)
sized = st.recursive(
    st.sampled_from([("a", 1), (r"\{", 1), ("[]{9}]", 1), (r"[^\]{9}]", 1), (r"\d", 1), (".", 1)]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(
            lambda parts: ("(?:" + "".join(text for text, _ in parts) + ")", sum(size for _, size in parts))
        ),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda parts: ("(?:" + "|".join(text for text, _ in parts) + ")", sum(size for _, size in parts))
        ),
        st.tuples(inner, st.integers(1, 40)).map(lambda it: (f"(?:{it[0][0]}){{{it[1]}}}", it[0][1] * it[1])),
        st.tuples(inner, st.integers(1, 40)).map(lambda it: (f"(?:{it[0][0]}){{0,{it[1]}}}?", it[0][1] * it[1])),
    ),
    max_leaves=6,
)


@given(one=sized)
def test_no_repetition_hides(one):
    text, size = one
    assert unrolled(text) >= size
    if unrolled(text) < MAX_UNROLLED:
        regular_expression(text, Patience())


def test_rules_of_gptqmodel_with_lookaround():
    dynamic = {r"-:.*\.gate$": {}, r"+:^(?!.*self_attn).*\.10\.": {"bits": 8}, r"model\.layers\.": {"bits": 3}}
    config = GptqConfig({"bits": 4, "group_size": 32, "dynamic": dynamic}, Path("m"))
    assert [config.rule(module).bits for module in MODULES] == [3, 8, 3, 4, 4]


@pytest.mark.parametrize("text", ["+:(unclosed", "(?:(?:a{200}){200}){200}"])
def test_a_rule_that_cannot_be_matched_is_refused_by_name(text):
    """Passed over, it would change what the modules it speaks of mean."""
    config = GptqConfig({"bits": 4, "dynamic": {text: {"bits": 8}}}, Path("some/model"))
    with pytest.raises(UnsupportedError, match=r"some/model: the quantization config's dynamic: the pattern '"):
        config.rule("lm_head")


def split_by(regex):
    document = {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"}, "model": {}}
    return recognize(Item(Path("tokenizer.json"), "", document), Item(Path("tokenizer_config.json"), "", {}))


def test_a_tokenizers_nested_repetition_is_read():
    """exaone's, written another way: it is found by what it does."""
    from requant.tokenizers.pre_tokenizers import BY_NAME

    (ours,) = BY_NAME["exaone-moe"].splits
    theirs = ours.replace(r"\p{N}|", r"(?:\p{N})|")
    assert theirs not in splitting._TRUSTED
    found = split_by(theirs)
    assert found.row.splits == (ours,)
    assert found.losses == ()


def test_a_tokenizers_pattern_that_takes_too_long_is_told(monkeypatch):
    monkeypatch.setattr("requant.tokenizers.recognize.Patience", lambda: Patience(0))
    (loss,) = split_by(r"[^\s]+|\s+").losses
    assert loss.detail.startswith(
        r"the regular expression '[^\\s]+|\\s+', which takes too long to match, is not understood"
    )


#: Where patterns are compiled that are not written there, and whose they are.
ELSEWHERE = {
    "requant/patterns.py": "the user's own",
    "requant/recipes/forced.py": "a table of types that llama.cpp insists on",
    "requant/projectors/translate.py": "the tables of projectors",
    "requant/projectors/to_hf.py": "the tables of projectors",
    "requant/calibration/skeleton.py": "names of layers and weights, escaped or from a table",
    "requant/pruning/units.py": "its own table",
    "requant/pruning/masks.py": "the user's own, of --skip and --sparsity-file",
    "requant/pipelines/stages.py": "the user's own, checked",
    "cli/prune.py": "the user's own, checked",
    "requant/hub.py": "a type the user names, escaped",
    "requant/tokenizers/splitting.py": "llama.cpp's own, from our table",
    "formats/safetensors/header.py": "our own, with our limits in it",
    "formats/gguf/header.py": "a table of other formats' beginnings",
}
_FUNCTIONS = ("compile", "match", "search", "fullmatch", "findall", "finditer", "sub", "subn", "split", "template")


def test_no_other_module_compiles_a_strangers_pattern():
    found = set()
    for path in [
        path for folder in ("cli", "requant", "formats", "kernels_cpu") for path in (ROOT / folder).rglob("*.py")
    ]:
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                if names & {"regex", "re2", "fnmatch", "pcre", "pcre2"}:
                    found.add((name, "import"))
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            written = isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
            tables = name.startswith("requant/architectures/")  # a family's patterns stand in its table
            if called in [f"re.{function}" for function in _FUNCTIONS] and not written and not tables:
                found.add((name, "dynamic"))
    assert found == {("requant/patterns.py", "import")} | {(name, "dynamic") for name in ELSEWHERE}
