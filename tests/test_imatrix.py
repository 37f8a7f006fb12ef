"""Importance matrices: llama-imatrix's own files (fixtures/imatrix), both forms, and what is made of their contents."""

import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import libgguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requant.encodings import BLOCKS, F16
from requant.errors import Error, FormatError, PlanError
from requant.execution import execute
from requant.expressions import Stored
from requant.formats.gguf import Gguf
from requant.formats.imatrix import imatrix_checkpoint, read_imatrix
from requant.importance import Importance, Measured
from requant.layout import LayoutOptions
from requant.losses import LossKind
from requant.plan import Plan, Step
from requant.recipes import Choice, Wanted, check_importance, missing_importance, recipe_named

FIXTURES = Path(__file__).parents[1] / "fixtures/imatrix"
NEW, OLD = FIXTURES / "experts.gguf", FIXTURES / "experts.dat"
DOWN = "blk.1.ffn_down_exps.weight"


def write(importance, path):
    checkpoint = imatrix_checkpoint(importance)
    steps = tuple(Step(Stored(t), t) for t in checkpoint.tensors)
    execute(Plan(steps, Gguf().layout(checkpoint, path, LayoutOptions())))


def made(entries, **more):
    return Importance(
        {
            name: Measured(np.asarray(sums, np.float32), np.asarray(counts, np.int64))
            for name, (sums, counts) in entries.items()
        },
        **more,
    )


def test_a_new_file_is_read_as_its_tensors_say():
    importance = read_imatrix(NEW)
    tensors = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(NEW).tensors}
    assert {f"{name}{suffix}" for name in importance.entries for suffix in (".in_sum2", ".counts")} == set(tensors)
    for name, entry in importance.entries.items():
        assert np.array_equal(entry.sums, tensors[f"{name}.in_sum2"].reshape(entry.sums.shape))
        assert np.array_equal(entry.counts, tensors[f"{name}.counts"].ravel())
    assert (importance.datasets, importance.chunks, importance.chunk_tokens) == (("text.txt",), 2, 16)
    assert importance.entries[DOWN].sums.shape == (16, 64)


def test_means_are_those_of_libgguf():
    importance = read_imatrix(NEW)
    reference = libgguf.load_imatrix(NEW)
    for name in importance.entries:
        ours = importance.weights(name)
        for expert in range(len(ours)):
            if importance.entries[name].counts[expert]:
                assert np.array_equal(np.ravel(reference[name]).reshape(ours.shape)[expert], ours[expert])


def test_the_old_form_tells_the_same_means_but_for_experts_without_tokens():
    new, old = read_imatrix(NEW), read_imatrix(OLD)
    assert set(old.entries) == set(new.entries)
    assert (old.datasets, old.chunks, old.chunk_tokens) == (("text.txt",), 2, 0)
    for name, entry in old.entries.items():
        assert entry.sums.shape[0] == 1
        shape = (*new.entries[name].sums.shape[:1], 1, new.entries[name].sums.shape[1])
        seen = new.entries[name].counts > 0
        assert np.allclose(old.weights_for(name, shape)[seen], new.weights(name)[seen], rtol=1e-6)


def test_a_file_is_written_as_llama_imatrix_writes_it(tmp_path):
    write(read_imatrix(NEW), tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == NEW.read_bytes()


def test_the_old_form_becomes_the_new_with_the_same_means(tmp_path):
    old = read_imatrix(OLD)
    write(old, tmp_path / "new.gguf")
    new = read_imatrix(tmp_path / "new.gguf")
    assert (new.datasets, new.chunks, new.chunk_tokens) == (old.datasets, old.chunks, 512)
    for name in old.entries:
        assert np.array_equal(new.weights(name), old.weights(name))


def test_columns_of_an_expert_without_tokens_count_alike():
    importance = made({"a": ([[2, 4], [0, 0], [0, 6]], [2, 0, 3])})
    assert importance.weights("a").tolist() == [[1, 2], [1, 1], [0, 2]]
    assert importance.weights("a").dtype == np.float32
    assert importance.unreached("a") == 1
    assert importance.weights("b") is None


def test_calls_of_the_old_form_below_one_leave_values_alone(tmp_path):
    path = tmp_path / "old.dat"
    path.write_bytes(struct.pack("<ii1sii2f", 1, 1, b"a", 0, 2, 3.0, 5.0))
    assert read_imatrix(path).weights("a").tolist() == [[3.0, 5.0]]


def test_a_value_that_is_not_finite_stops_the_plan():
    with pytest.raises(PlanError, match=r"for a that is not finite"):
        made({"a": ([[1, np.inf]], [1])}).weights("a")


def test_entries_are_chosen_by_fragments_of_their_names():
    importance = made({"blk.0.ffn_up": ([[1]], [1]), "blk.0.attn_v": ([[1]], [1]), "blk.1.attn_v": ([[1]], [1])})
    assert set(importance.only(included=("attn",)).entries) == {"blk.0.attn_v", "blk.1.attn_v"}
    assert set(importance.only(excluded=("blk.0", "ffn")).entries) == {"blk.1.attn_v"}
    assert importance.only(excluded=("blk",)) is None
    for nothing in ({"included": ("attn", "nothing")}, {"excluded": ("nothing",)}):
        with pytest.raises(PlanError, match="no entry with 'nothing' in its name"):
            importance.only(**nothing)
    layers = {"blk.0.attn_v": None, "blk.1.attn_v": "blk.0.attn_v"}
    assert set(importance.renamed(lambda name: layers.get(name, name)).entries) == {"blk.0.ffn_up", "blk.0.attn_v"}


def checked(encoding, importance, name="blk.0.attn_v.weight", shape=(4, 512), recipe="Q4_K_M"):
    tensors, choices = [Wanted(name, shape, F16)], [Choice(BLOCKS[encoding])]
    return check_importance(recipe_named(recipe), tensors, choices, importance)


def test_types_that_need_importance_are_refused_without():
    for encoding in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"):
        with pytest.raises(PlanError, match=r"needs an importance matrix for blk\.0\.attn_v\.weight"):
            checked(encoding, None)
    assert checked("Q2_K", None) == ()
    with pytest.raises(PlanError, match=r"Q2_K_S needs"):
        checked("Q2_K", None, recipe="Q2_K_S")
    assert checked("Q2_K", None, recipe="Q2_K_S", name="token_embd.weight") == ()
    with pytest.raises(PlanError, match=r"needs an importance matrix for token_embd"):
        checked("IQ2_XXS", None, name="token_embd.weight")  # ggml's encoder itself refuses
    other = made({"blk.9.attn_v.weight": ([[1] * 512], [1])})
    tensors, choices = [Wanted("blk.0.attn_v.weight", (4, 512), F16)], [Choice(BLOCKS["IQ1_S"])]
    assert missing_importance(recipe_named("IQ1_S"), tensors, choices, other) == ("blk.0.attn_v.weight",)


def test_what_importance_cannot_do_is_told():
    entry = ([[1] * 512], [1])
    assert checked("Q4_K", made({"blk.0.attn_v.weight": entry})) == ()
    (loss,) = checked("Q4_K", made({"blk.1.attn_v.weight": entry}))
    assert (loss.kind, loss.detail) == (LossKind.IMPORTANCE_UNUSED, "the importance matrix has no entry for it")
    (loss,) = checked("Q8_0", made({"blk.1.attn_v.weight": entry}))  # that type has no use for it
    assert (loss.kind, loss.subject) == (LossKind.IMPORTANCE_UNUSED, "--imatrix")
    assert checked("Q6_K", made({"blk.1.attn_v.weight": entry}), name="output.weight") == ()  # nobody measures it
    with pytest.raises(PlanError, match="it has 512 values, the tensor takes 256"):
        checked("Q4_K", made({"blk.0.attn_v.weight": entry}), shape=(4, 256))
    with pytest.raises(PlanError, match="it has 512 values, the tensor takes 256"):
        checked("IQ2_XXS", made({"blk.0.attn_v.weight": entry}), shape=(4, 256))  # not: "needs a matrix"
    (loss,) = checked("Q4_K", made({"token_embd.weight": entry}), name="token_embd.weight", shape=(4, 256))
    assert loss.detail == "it has 512 values, the tensor takes 256"
    (loss,) = checked(
        "Q4_K",
        made({"blk.0.ffn_up_exps.weight": ([[1] * 256] * 3, [5, 0, 0])}),
        "blk.0.ffn_up_exps.weight",
        (3, 4, 256),
    )
    assert loss.detail == "no token reached 2 of its experts: all their columns count alike"


BROKEN = {
    "empty": (b"", "the file ends before the number of entries"),
    "no entries": (struct.pack("<i", 0), "would begin with 0 entries"),
    "negative entries": (struct.pack("<i", -1), "would begin with -1 entries"),
    "many entries": (struct.pack("<i", 2**31 - 1) + bytes(100), "would begin with 2147483647 entries, in 104 bytes"),
    "text": (b"What is an importance matrix?" * 9, "this is no importance matrix"),
    "long name": (struct.pack("<ii", 1, 2**31 - 1) + bytes(20), "entry 0 claims a name of 2147483647 bytes"),
    "negative name": (struct.pack("<ii", 1, -5) + bytes(20), "entry 0 claims a name of -5 bytes"),
    "many values": (struct.pack("<ii1sii", 1, 1, b"a", 1, 2**31 - 1) + bytes(20), "a claims 2147483647 values"),
    "no values": (struct.pack("<ii1sii", 1, 1, b"a", 1, 0) + bytes(20), "a claims 0 values"),
    "cut": (OLD.read_bytes()[:5000], "claims 1024 values|ends before"),
    "cut early": (struct.pack("<ii1si", 1, 1, b"a", 1), "the file ends before the lengths of entry 0"),
    "cut GGUF": (NEW.read_bytes()[:-200], "bytes are missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_end_in_an_error(name, tmp_path):
    data, message = BROKEN[name]
    path = tmp_path / "broken"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message):
        read_imatrix(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": ("imatrix.chunk_size",)}, "has the key imatrix.chunk_size; this file has not"),
        ({"tensors": ("a.counts",)}, r"a has \.in_sum2 but no \.counts"),
        ({"tensors": ("a.in_sum2",)}, r"a has \.counts but no \.in_sum2"),
        ({"tensors": ("a.in_sum2", "a.counts")}, "no tensor of an importance matrix"),
        ({"a.counts": np.ones((3, 1), np.float32)}, "a has 64 sums for 3 counts"),
        ({"a.counts": np.full((2, 1), np.nan, np.float32)}, "a count that is no number of tokens"),
        ({"a.counts": np.ones((2, 1), np.float16)}, r"tensor a\.counts is F16; F32 is expected"),
        ({"a.in_sum2": np.ones((2, 0), np.float32)}, "a has 0 sums for 2 counts"),
    ],
)
def test_broken_new_files_end_in_an_error(change, message, tmp_path):
    left_out = (*change.get("keys", ()), *change.get("tensors", ()))
    writer = gguf.GGUFWriter(tmp_path / "broken.gguf", "")
    tensors = {"a.in_sum2": np.ones((2, 32), np.float32), "a.counts": np.ones((2, 1), np.float32), **change}
    writer.add_array("imatrix.datasets", ["x"])
    for key in ("imatrix.chunk_count", "imatrix.chunk_size"):
        if key not in left_out:
            writer.add_uint32(key, 1)
    for name, data in tensors.items():
        if isinstance(data, np.ndarray) and name not in left_out:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(FormatError, match=message):
        read_imatrix(tmp_path / "broken.gguf")


@given(st.data())
def test_whatever_the_bytes_reading_ends_soon(tmp_path_factory, data):
    original = data.draw(st.sampled_from([NEW, OLD])).read_bytes()
    start = data.draw(st.integers(0, 200))
    noise = data.draw(st.binary(min_size=1, max_size=8))
    stop = data.draw(st.integers(start, len(original)))
    path = tmp_path_factory.mktemp("fuzz") / "file"
    path.write_bytes(original[:start] + noise + original[start + len(noise) : stop])
    began = time.process_time()
    tracemalloc.start()
    try:
        assert read_imatrix(path).entries
    except Error:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - began < 5
    assert peak < 100e6
