"""A minute of the fuzz campaign, the same cases each time: see docs/robustness.md.

The numbers of the cases are fixed, so that a defect found here is found by everyone; the campaign itself
(`python -m tests.fuzz.campaign`) goes where no run has been.
"""

from random import Random

import pytest

from requant.errors import FormatError
from tests.fuzz import campaign, seeds
from tests.fuzz.guided import Drawn, tried
from tests.fuzz.mutations import GgufParts, Raw, json_text, mutated, shaken
from tests.fuzz.targets import TARGETS


@pytest.mark.slow
def test_a_minute_of_the_campaign():
    result = campaign.campaign(100_000)
    assert result.seen == {}, campaign.report(result)
    assert set(result.cases) == set(TARGETS)
    for name, count in result.cases.items():
        assert 0 < result.errors[name] <= count, f"{name}: every case is refused, or none"


def test_a_defect_is_found_and_told(monkeypatch, tmp_path):
    """What is no `Error` is a defect, with the case that shows it; what takes too long, too."""

    def broken(random, folder):
        match random.randrange(4):
            case 0:
                raise FormatError(folder, "on purpose")
            case 1:
                raise TypeError("an accident")
            case 2:
                while True:
                    pass

    monkeypatch.setattr(campaign, "TARGETS", {"broken": (broken, 1)})
    monkeypatch.setattr(campaign, "SECONDS", 0.05)
    result = campaign.campaign(40)
    assert result.cases["broken"] == 40
    assert sum(result.seen.values()) + result.errors["broken"] < 40
    assert sorted(kind.split(" in ")[0] for kind in result.seen) == ["broken: TooLong", "broken: TypeError"]
    first = next(text for kind, text in result.defects.items() if "TypeError" in kind)
    assert "an accident" in first
    number = int(first.split("\n")[0].removeprefix("broken:"))
    with pytest.raises(TypeError):
        campaign.run("broken", number, tmp_path)


def test_cases_are_the_same_each_time():
    value = {"a": [1, 2, {"b": "text"}], "c": None, "d": 1.5}
    for number in range(50):
        ones = [json_text(mutated(value, Random(number))) for _ in range(2)]
        assert ones[0] == ones[1]
        data = [shaken(b"some bytes of a file" * 9, Random(number)) for _ in range(2)]
        assert data[0] == data[1]
    assert len({json_text(mutated(value, Random(number))) for number in range(200)}) > 100


def test_what_python_does_not_write():
    assert json_text({"a": Raw("NaN"), "b": [True, None, "é"]}) == '{"a": NaN, "b": [true, null, "\\u00e9"]}'
    assert GgufParts((), (), 0).written() == b"GGUF" + bytes([3, *[0] * 19]) + b"\0" * 8


def test_a_case_drawn_from_bytes(tmp_path):
    """What a coverage-guided fuzzer does: bytes decide every choice, the same bytes the same case, none any."""
    data = bytes(range(256)) * 2
    firsts = [Drawn(data).getrandbits(20) for _ in range(2)]
    assert firsts == [0x20100 & 0xFFFFF] * 2
    assert {Drawn(bytes([n, 0])).random() for n in range(256)} == {n / 65536 for n in range(256)}
    assert json_text(mutated({"a": [1, 2]}, Drawn(data))) == json_text(mutated({"a": [1, 2]}, Drawn(data)))
    for case in (data, data[::-1], b""):
        outcomes = [str(tried(case, "safetensors file", tmp_path)) for _ in range(2)]
        assert outcomes[0] == outcomes[1]


def test_every_family_is_a_seed():
    """A family whose seed is refused would be fuzzed by nothing, and hide all others."""
    refused = {"llama-longrope", "gemma4", "gemma4-experts"}  # their factors are zeros
    assert {*seeds.ggml_models()} - {*seeds.hf_models()} == refused | seeds.BY_NUMBERS
