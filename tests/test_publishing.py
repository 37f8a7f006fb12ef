"""Files that appear under their names: all at once, with the access their predecessors had, beside what others keep."""

import contextlib
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from requant import formats, output, system
from requant.errors import Error, FormatError, PlanError
from requant.execution import Options, execute
from requant.formats import FORMATS
from requant.journal import Journal, finish_around
from requant.layout import Layout, OutputFile
from requant.operations.convert import Request, plan_conversion
from requant.output import OutputSet
from requant.sources import read as read_source
from requant.staging import Staging, partial_of
from tests.faults import campaign
from tests.interrupts import heed_interrupts
from tests.tiny_folder import write_tiny_folder
from tests.tiny_gguf import write_tiny_llama

NAMES = ("config.json", "1_Pooling/config.json", "model.safetensors")


def files(text, names=NAMES):
    return tuple(OutputFile(name, f"{text} {name}".encode(), len(f"{text} {name}")) for name in names)


def publish(root, text, names=NAMES, obsolete=(), check=lambda: None):
    with OutputSet(Layout(root, files(text, names)), [root / name for name in obsolete]) as outputs:
        outputs.publish(check)


def content(root):
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def whole(text, names=NAMES):
    return {name: f"{text} {name}" for name in names}


@pytest.fixture(params=["exchanged", "one by one", "inside"])
def way(request, monkeypatch, tmp_path):
    """Each way to replace a folder that exists."""
    if request.param == "one by one":
        monkeypatch.setattr(system, "exchange", lambda one, other: False)
    if request.param == "inside":
        (tmp_path / "out").mkdir()
        monkeypatch.chdir(tmp_path / "out")
    return request.param


def test_a_folder_is_replaced_and_what_is_not_the_model_stays(tmp_path, way):
    root = tmp_path / "out"
    publish(root, "old", (*NAMES, "quantize_config.json"))
    (root / "notes.txt").write_text("mine")
    (root / "deep/deeper").mkdir(parents=True)
    (root / "deep/deeper/mine").write_text("mine")
    (root / "1_Pooling/mine").write_text("mine")
    (root / "link").symlink_to("nowhere")
    inode = (root / "notes.txt").stat().st_ino
    publish(root, "new", obsolete=["quantize_config.json"])
    others = dict.fromkeys(("notes.txt", "deep/deeper/mine", "1_Pooling/mine"), "mine")
    assert content(root) == {**whole("new"), **others}
    assert os.readlink(root / "link") == "nowhere" and (root / "notes.txt").stat().st_ino == inode  # noqa: PTH115
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_modes_are_kept(tmp_path, way):
    root = tmp_path / "out"
    publish(root, "old")
    (root / "config.json").chmod(0o600)
    (root / "model.safetensors").chmod(0o444)
    root.chmod(0o750)
    publish(root, "new")
    assert content(root) == whole("new")
    modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in ("config.json", "model.safetensors", ".")}
    assert modes == {"config.json": 0o600, "model.safetensors": 0o444, ".": 0o750}


def test_a_secret_file_is_not_readable_while_its_successor_is_made(tmp_path):
    path = tmp_path / "out.gguf"
    path.write_text("secret")
    path.chmod(0o600)
    with OutputSet(Layout(tmp_path, files("new", ("out.gguf",)))) as outputs:
        assert stat.S_IMODE((tmp_path / "out.gguf.partial").stat().st_mode) == 0o600
        outputs.publish()
    assert path.read_text() == "new out.gguf" and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(not hasattr(os, "setxattr") or os.geteuid(), reason="needs root and extended attributes")
def test_owner_and_access_list_are_kept(tmp_path):
    path = tmp_path / "out.gguf"
    path.write_text("old")
    os.chown(path, 1234, 2345)
    entry = lambda tag, rights, who=0xFFFFFFFF: b"".join(  # noqa: E731 - acl(5): tag, rights, id
        (tag.to_bytes(2, "little"), rights.to_bytes(2, "little"), who.to_bytes(4, "little"))
    )
    acl = (2).to_bytes(4, "little") + entry(1, 6) + entry(2, 4, 777) + entry(4, 0) + entry(16, 4) + entry(32, 0)
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError:
        pytest.skip("no access lists here")
    publish(tmp_path, "new", ("out.gguf",))
    found = path.stat()
    assert (found.st_uid, found.st_gid) == (1234, 2345)
    assert os.getxattr(path, "system.posix_acl_access") == acl


def test_a_group_that_cannot_be_given_gains_no_rights(tmp_path, monkeypatch):
    path = tmp_path / "out.gguf"
    path.write_text("old")
    path.chmod(0o640)
    monkeypatch.setattr(system, "_given", lambda descriptor, old: False)
    publish(tmp_path, "new", ("out.gguf",))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_folder_with_a_new_name_is_synced(tmp_path, monkeypatch, way):
    synced = []
    monkeypatch.setattr(system, "sync_folder", lambda folder: synced.append(Path(folder)))
    publish(tmp_path / "out", "old")
    assert tmp_path in synced
    synced.clear()
    publish(tmp_path / "out", "new")
    assert {tmp_path, tmp_path / "out"} <= set(synced)
    synced.clear()
    publish(tmp_path, "new", ("out.gguf",))
    assert tmp_path in synced


def test_a_link_to_a_folder_is_followed_and_one_to_a_file_is_replaced(tmp_path):
    """A file's link may lead into the Hub's cache, or to a model that others use."""
    publish(tmp_path / "real", "old")
    (tmp_path / "real/model.safetensors").rename(tmp_path / "blob")
    (tmp_path / "real/model.safetensors").symlink_to(tmp_path / "blob")
    (tmp_path / "out").symlink_to("real")
    publish(tmp_path / "out", "new")
    assert (tmp_path / "out").is_symlink() and content(tmp_path / "real") == whole("new")
    assert (tmp_path / "blob").read_text() == "old model.safetensors"
    (tmp_path / "link.gguf").symlink_to(tmp_path / "blob")
    publish(tmp_path, "new", ("link.gguf",))
    assert (tmp_path / "link.gguf").read_text() == "new link.gguf" and not (tmp_path / "link.gguf").is_symlink()
    assert (tmp_path / "blob").read_text() == "old model.safetensors"


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    with OutputSet(Layout(tmp_path, files("new", ("out.gguf",)))) as outputs:
        (tmp_path / "out.gguf").write_text("another's")
        with pytest.raises(PlanError, match="appeared meanwhile"):
            outputs.publish()
    assert content(tmp_path) == {"out.gguf": "another's"}
    with OutputSet(Layout(tmp_path / "out", files("new"))) as outputs:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/config.json").write_text("another's")
        with pytest.raises(PlanError, match="appeared meanwhile"):
            outputs.publish()
    assert content(tmp_path) == {"out.gguf": "another's", "out/config.json": "another's"}


def test_what_comes_into_the_folder_at_the_last_moment_is_brought_along(tmp_path, monkeypatch):
    root = tmp_path / "out"
    publish(root, "old")
    (root / "notes.txt").write_text("first")
    exchange = system.exchange

    def late(one, other):
        (root / "late.txt").write_text("late")
        (root / "draft").write_text("second")
        (root / "draft").replace(root / "notes.txt")
        return exchange(one, other)

    monkeypatch.setattr(system, "exchange", late)
    publish(root, "new")
    assert content(root) == {**whole("new"), "late.txt": "late", "notes.txt": "second"}


def test_a_folder_of_thousands_of_files_is_left_in_its_place(tmp_path):
    root = tmp_path / "out"
    publish(root, "old")
    for number in range(1001):
        (root / str(number)).touch()
    inode = root.stat().st_ino
    publish(root, "new")
    assert root.stat().st_ino == inode and whole("new").items() <= content(root).items()
    assert len(list(root.iterdir())) == 1001 + len(NAMES)


def test_a_folder_whose_parent_may_not_be_written_to(tmp_path, monkeypatch):
    root = tmp_path / "out"
    publish(root, "old")
    mkdir = Path.mkdir

    def refuse(self, *arguments, **named):
        if self.parent == tmp_path and not self.exists():
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return mkdir(self, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", refuse)
    publish(root, "new")
    assert content(tmp_path) == {f"out/{name}": text for name, text in whole("new").items()}


MOUNTED = """
mount --bind "$1/real" "$1/out" || exit 77
exec "$2" -c "from tests import test_publishing as t; from pathlib import Path; t.publish(Path('$1/out'), 'new')"
"""


def test_a_folder_of_the_same_disk_that_is_mounted(tmp_path):
    publish(tmp_path / "real", "old")
    (tmp_path / "real/mine").write_text("mine")
    (tmp_path / "out").mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    command = ["unshare", "-m", "sh", "-c", MOUNTED, "sh", tmp_path, sys.executable]
    process = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    if process.returncode in (1, 77) and "Traceback" not in process.stderr:
        pytest.skip("nothing may be mounted here")
    assert process.returncode == 0, process.stderr
    assert content(tmp_path) == {f"real/{name}": text for name, text in {**whole("new"), "mine": "mine"}.items()}


def test_a_strange_folder_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/mine").write_text("mine")
    with pytest.raises(PlanError, match="in the way"):
        publish(tmp_path / "out", "new")
    assert content(tmp_path) == {"out.partial/mine": "mine"}


def test_two_writers_of_one_folder_do_not_meet(tmp_path):
    layout = Layout(tmp_path / "out", files("new"))
    with OutputSet(layout) as outputs:
        with pytest.raises(PlanError, match="another process is writing"), OutputSet(layout):
            pass
        outputs.publish()
    assert content(tmp_path / "out") == whole("new")


def test_left_overs_are_removed_wherever_they_were_staged(tmp_path, monkeypatch):
    root = tmp_path / "out"
    publish(root, "old")
    for place in (tmp_path / "out.partial", root / "config.json.partial"):
        left = Staging.claim(place)
        left.new.mkdir()
        (left.new / "config.json").write_text("left")
        left.release()
    publish(root, "new")
    assert content(tmp_path) == {f"out/{name}": text for name, text in whole("new").items()}
    (root / "config.json.partial").write_text("")  # killed while it was tried whether names can be given there
    publish(root, "new")
    assert content(tmp_path) == {f"out/{name}": text for name, text in whole("new").items()}
    (tmp_path / "out.gguf.partial").write_text("left")
    publish(tmp_path, "new", ("out.gguf",))
    left = Staging.claim(tmp_path / "out.gguf.partial")
    left.release()
    publish(tmp_path, "newer", ("out.gguf",))
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.gguf"}


# --- interrupted, or failing, in the middle


def broken_off(root, done, names=NAMES, obsolete=()):
    """As a killed process leaves it after `done` renames of the journal."""
    staging = Staging.claim(root / "config.json.partial")
    for name in names:
        (staging.new / name).parent.mkdir(parents=True, exist_ok=True)
        (staging.new / name).write_text(f"new {name}")
    journal = Journal.of(root, list(names), list(obsolete))
    journal.write(staging)
    replace, count = Path.replace, 0

    def counted(self, target):
        nonlocal count
        count += 1
        if count > done:
            raise InterruptedError
        return replace(self, target)

    Path.replace = counted
    try:
        with contextlib.suppress(InterruptedError):
            journal.carry_out(staging)
    finally:
        Path.replace = replace
    staging.release()
    return journal


@pytest.mark.parametrize("done", range(2 * len(NAMES) + 2))
@pytest.mark.parametrize("how", ["finished", "undone", "cannot"])
def test_what_was_begun_is_finished_or_undone(tmp_path, monkeypatch, done, how):
    root = tmp_path / "out"
    publish(root, "old", (*NAMES, "quantize_config.json"))
    broken_off(root, done, obsolete=["quantize_config.json"])
    seen = content(root)
    names = {name for name in seen if ".partial" not in name}
    shown = {name: text.split()[0] for name, text in seen.items() if name in names}
    assert len(set(shown.values())) <= 1, "a mixture"
    assert "config.json" not in names or names in ({*NAMES, "quantize_config.json"}, set(NAMES))
    monkeypatch.chdir(root)
    if how == "finished":
        finish_around(Path())
        assert content(root) == whole("new")
        return
    replace = Path.replace

    def refuse(self, target):
        """No new file can be given its name, or nothing can be moved."""
        if how == "cannot" or ("new" in self.parts and target.parent in (root, root / "1_Pooling")):
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    if how == "undone" or done in (0, 2 * len(NAMES) + 1):
        finish_around(root)
        expected = whole("new") if done == 2 * len(NAMES) + 1 else whole("old", (*NAMES, "quantize_config.json"))
        left = {name for name in content(root) if ".partial" in name}
        assert {name: text for name, text in content(root).items() if name not in left} == expected
    else:
        with pytest.raises(PlanError, match="may hold only a part") as caught:
            finish_around(root)
        assert "requant inspect" in caught.value.hint
    monkeypatch.setattr(Path, "replace", replace)
    publish(root, "newest", obsolete=[name for name in ("quantize_config.json",) if (root / name).exists()])
    assert content(root) == whole("newest")


def test_every_reader_finishes_what_was_begun(tmp_path):
    write_tiny_folder(tmp_path / "one")
    write_tiny_folder(tmp_path / "out", seed=3)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    for opened in ("out", "out/model.safetensors"):
        staging = Staging.claim(tmp_path / "out/config.json.partial")
        shutil.copytree(tmp_path / "one", staging.new)
        journal = Journal.of(tmp_path / "out", names, [])
        journal.write(staging)
        (tmp_path / "out/config.json").unlink()
        staging.release()
        assert formats.open(tmp_path / opened).tensors
        assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
        assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "one/model.safetensors").read_bytes()


def test_a_journal_from_elsewhere_moves_nothing(tmp_path):
    """It may be a copy, or come with a model that somebody else made."""
    root, victim = tmp_path / "out", tmp_path / "victim"
    victim.mkdir()
    (victim / "config.json").write_text("mine")
    publish(root, "old")
    for change in (
        {"folder": 1},
        {"root": "../victim"},
        {"root": "victim"},
        {"aside": ["../victim/config.json"]},
        {"new": ["/etc/hostname"]},
        {"made": [".."]},
        {"aside": ["a\\b"]},
        {"new": [1]},
        {"aside": None},
        {"root": {}},
    ):
        broken_off(root, 0)
        place = root / "config.json.partial"
        document = json.loads((place / "journal").read_text())
        (place / "journal").write_text(json.dumps({**document, **change}))
        before = content(tmp_path)
        with pytest.raises(FormatError, match="journal"):
            formats.open(root)
        assert content(tmp_path) == before
        (place / "journal").write_text(json.dumps(document))
        shutil.rmtree(place / "old", ignore_errors=True)
        (place / "old").symlink_to(victim)
        with pytest.raises(FormatError, match="another folder"):
            finish_around(root)
        (place / "old").unlink()
        shutil.rmtree(place)
    for text in ("", "[", "[]", "1", "null", '{"folder": 1}', "[" * 100_000):
        staging = Staging.claim(root / "config.json.partial")
        staging.journal.write_text(text)
        staging.release()
        with pytest.raises(FormatError, match="no journal"):
            finish_around(root)
    assert content(victim) == {"config.json": "mine"}


def test_a_folder_that_is_only_called_so_means_nothing(tmp_path):
    publish(tmp_path / "out", "old")
    (tmp_path / "out/x.partial").mkdir()
    (tmp_path / "out/x.partial/journal").write_text("{}")
    finish_around(tmp_path / "out")
    assert (tmp_path / "out/x.partial/journal").exists()


@pytest.mark.parametrize("call", ["unlink", "rmdir", "close"])
def test_one_failure_while_all_is_removed_leaves_as_little_as_it_can(tmp_path, monkeypatch, call):
    """A close that fails has closed; the other files are removed all the same, and nothing is closed twice."""
    real, closed, calls = getattr(os, call), [], 0

    def once(target, *more, **named):
        nonlocal calls
        calls += 1
        if call == "close":
            closed.append(target)
            real(target)
        if calls == 1:
            raise OSError(errno.EIO, "Input/output error", str(target))
        return None if call == "close" else real(target, *more, **named)

    with pytest.raises(KeyError), OutputSet(Layout(tmp_path / "out", files("new"))):
        monkeypatch.setattr(os, call, once)
        raise KeyError
    monkeypatch.undo()
    publish(tmp_path / "out", "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_until_all_files_have_their_names(tmp_path, monkeypatch, number):
    publish(tmp_path / "out", "old")
    seen = []

    def interrupted(one, other):
        os.kill(os.getpid(), number)
        return False  # and so one by one

    def handle(number, frame):
        seen.append(content(tmp_path / "out"))
        raise KeyboardInterrupt

    monkeypatch.setattr(system, "exchange", interrupted)
    before = signal.signal(number, handle)
    try:
        with pytest.raises(KeyboardInterrupt):
            publish(tmp_path / "out", "new")
        assert signal.getsignal(number) is handle
    finally:
        signal.signal(number, before)
    assert seen == [whole("new")] and [path.name for path in tmp_path.iterdir()] == ["out"]


INTERRUPTED_AT = """
import os, signal, sys
from requant.cli import interrupts
interrupts.install()
from requant import output, system
from requant.cli import main
if sys.argv[1] == "before":
    sync = system.sync
    system.sync = lambda descriptor: (os.kill(os.getpid(), signal.SIGINT), sync(descriptor))
else:
    output.on_published.append(lambda: os.kill(os.getpid(), signal.SIGINT))
sys.argv = ["requant", "convert", *sys.argv[2:]]
main.main()
"""


@pytest.mark.parametrize(("when", "said"), [("before", "nothing was changed"), ("after", "the new model is complete")])
def test_what_is_said_of_an_interrupt_is_true(tmp_path, when, said):
    hf = write_tiny_folder(tmp_path / "hf")
    out = tmp_path / "out"
    command = [sys.executable, "-c", INTERRUPTED_AT, when, hf, out, "--quiet"]
    heeding = {"restore_signals": True, "preexec_fn": heed_interrupts}
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **heeding)
    assert (process.returncode, process.stderr.strip()) == (130, f"interrupted; {said}")
    assert out.exists() == (when == "after")
    assert not list(tmp_path.rglob("*.partial"))


# --- what is read


def changed_by(path, how):
    if how == "overwritten":
        with path.open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\0\1\2\3")
    elif how == "appended":
        with path.open("ab") as file:
            file.write(b"more")
    elif how == "replaced":
        shutil.copy(path, path.with_name("copy"))
        path.with_name("copy").replace(path)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["overwritten", "appended", "replaced", "removed"])
@pytest.mark.parametrize("source", ["model.safetensors", "tokenizer.json", "tiny.gguf", "pytorch_model.bin"])
@pytest.mark.parametrize("when", ["planned", "read"])
def test_a_source_that_changes_is_named_and_nothing_is_published(tmp_path, monkeypatch, source, how, when):
    hf = write_tiny_folder(tmp_path / "hf")
    opened = hf
    if source.endswith("gguf"):
        opened = write_tiny_llama(tmp_path / source)
    if source.endswith("bin"):
        import torch
        from safetensors.torch import load_file

        torch.save({"a": load_file(hf / "model.safetensors")["model.embed_tokens.weight"].T}, hf / source)
        (hf / "model.safetensors").unlink()
    path = opened if opened.is_file() else hf / source
    target = FORMATS["safetensors"]
    plan = plan_conversion(
        formats.open(path if source.endswith("bin") else opened), target, tmp_path / "out", Request()
    )
    if when == "planned":
        changed_by(path, how)
    else:
        write = output.Sink.sync

        def late(self):
            write(self)
            if path.exists() and not list(path.parent.glob("done")):
                (path.parent / "done").touch()
                changed_by(path, how)

        monkeypatch.setattr(output.Sink, "sync", late)
    with pytest.raises(Error, match=r"has changed since it was opened|cannot be opened") as caught:
        execute(plan, Options(1))
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "tokenizer_config.json"])
def test_a_file_that_only_the_plan_read_is_named_when_it_changes(tmp_path, name):
    """The weights that are read later may belong to the new one."""
    hf = write_tiny_folder(tmp_path / "hf")
    index = {"weight_map": dict.fromkeys((t.name for t in formats.open(hf).tensors), "model.safetensors")}
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    plan = plan_conversion(formats.open(hf), FORMATS["gguf"], tmp_path / "out.gguf", Request())
    changed_by(hf / name, "replaced")
    with pytest.raises(FormatError, match="another file has taken its place") as caught:
        execute(plan, Options(1))
    assert str(hf / name) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_model_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch, times):
    from requant.formats.safetensors import checkpoint

    one, two = write_tiny_folder(tmp_path / "one"), write_tiny_folder(tmp_path / "two", seed=1)
    (two / "config.json").write_text((two / "config.json").read_text().replace("512", "768"))
    read, count = checkpoint.read_config, 0

    def late(folder):
        nonlocal count
        count += 1
        if count <= times:
            assert system.exchange(one, two)
        return read(folder)

    monkeypatch.setattr(checkpoint, "read_config", late)
    if times == 3:
        with pytest.raises(FormatError, match="has changed since it was opened"):
            formats.open(one)
        return
    found = formats.open(one)
    assert found.config == json.loads((one / "config.json").read_text())
    assert bytes(read_source(found.tensors[0].sources["data"])) in (one / "model.safetensors").read_bytes()


@pytest.mark.parametrize("suffix", [".gguf", ".safetensors", ".bin", ".safetensors.index.json"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_an_error_at_once(tmp_path, monkeypatch, suffix, kind):
    import socket

    monkeypatch.chdir(tmp_path)
    path = Path(f"m{suffix}")
    bound = socket.socket(socket.AF_UNIX) if kind == "socket" else None
    if kind == "pipe":
        os.mkfifo(path)
    elif bound is not None:
        bound.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    signal.alarm(20)  # waiting for a writer is no exception that could be caught
    try:
        with pytest.raises(Error):
            formats.open(path)
        folder = tmp_path / "folder"
        folder.mkdir()
        path.rename(folder / ("model" + suffix))
        with pytest.raises(Error):
            formats.open(folder)
    finally:
        signal.alarm(0)
        if bound is not None:
            bound.close()


@pytest.mark.slow
def test_a_sample_of_the_campaign_of_faults():
    """Figures of all of it are in docs/robustness.md."""
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("no C compiler")
    command = [sys.executable, "-m", "tests.faults.campaign", "--every", "97"]
    process = subprocess.run(
        command, cwd=Path(campaign.__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert int(process.stdout.rsplit("\n", 2)[-2].split()[0]) > 100


def test_a_file_systems_root_is_a_folder_as_any_other():
    """Only root may write there: what begins a conversion looks for what was left, and finds nothing."""
    root = Path(Path.cwd().anchor)
    assert partial_of(root) == root / ".partial"
    finish_around(root / "no-such-model.gguf")
    finish_around(root)
