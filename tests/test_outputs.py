"""What programs write: a place that refuses is named before anything is computed, and what was computed isn't lost."""

import errno
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from utils import output
from utils.output import OutputError, require_files, require_folder, write_or_keep


ROOT = Path(__file__).resolve().parent.parent


def content_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "there.md").write_text("before")
    require_folder(tmp_path)
    require_folder(tmp_path / "not" / "yet" / ".." / "there")
    require_files(tmp_path / "there.md", tmp_path / "new.md", tmp_path / "not" / "yet" / "new.md")
    assert content_of(tmp_path) == ["there.md"] and (tmp_path / "there.md").read_text() == "before"


@pytest.mark.parametrize("name, reason", [
    ("file", "file is no folder"),
    ("file/in/it", "file is no folder"),
    ("link", "link is a link that leads nowhere"),
    ("link/in/it", "link is a link that leads nowhere"),
    ("loop", "loop is a link that leads nowhere"),
    ("n" * 300, "name too long"),
    ("new/" + "n" * 300, "name too long"),
    ("nul\0", "null"),
])
def test_what_stands_in_the_way_of_a_folder_is_named(tmp_path, name, reason):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    before = content_of(tmp_path)
    for require in (require_folder, lambda place, **fix: require_files(place / "figures.md", **fix)):
        with pytest.raises(OutputError, match="(?i)" + reason) as error:
            require(tmp_path / name, fix="choose another --output")
        assert str(tmp_path / name) in str(error.value) and "choose another --output" in str(error.value)
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("name, reason", [
    ("folder", "it is a folder"), ("pipe", "no ordinary file"), ("n" * 256, "name too long"),
    ("n" * 250, "name too long"),  # that of the file which takes its place is longer
])
def test_a_file_that_cannot_be_replaced_is_named(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="(?i)" + reason):
        require_files(tmp_path / name)
    with pytest.raises(OutputError, match="no ordinary file"):
        require_files("/dev/null")


def test_a_place_where_nobody_can_write_is_named():
    if not Path("/proc/self").exists():
        pytest.skip("this system has no /proc")
    with pytest.raises(OutputError, match="/proc/figures cannot be written"):
        require_folder("/proc/figures")


def test_a_full_disk_is_named_before_it_is_written_to(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")(free=5_000_000)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda folder: usage)
    require_folder(tmp_path)
    with pytest.raises(OutputError, match=r"5\.0 MB are free on its disk, and 90\.0 MB are needed"):
        require_files(tmp_path / "network.onnx", room=90_000_000)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_a_full_disk_refuses_is_kept_and_named(tmp_path, monkeypatch):
    spare, runs = tmp_path / "spare", tmp_path / "runs"
    spare.mkdir()
    monkeypatch.setattr(output.tempfile, "tempdir", str(spare))
    monkeypatch.setattr(output, "write_atomically", full)
    with pytest.raises(OutputError) as error:
        write_or_keep({runs / "a.md": "± 1", runs / "b.png": b"\x89PNG"})
    for name, content in (("a.md", "± 1".encode()), ("b.png", b"\x89PNG")):
        kept, = spare.rglob(name)
        assert kept.read_bytes() == content and str(kept) in str(error.value)
        assert f"{runs / name} cannot be written (No space left on device)" in str(error.value)


def test_text_is_printed_where_every_disk_is_full(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(output.tempfile, "mkdtemp", full)
    monkeypatch.setattr(output.os, "replace", full)
    with pytest.raises(OutputError, match="its text is printed above"):
        write_or_keep({tmp_path / "a.md": "12.86 ± 0.67"})
    assert capsys.readouterr().out == "12.86 ± 0.67\n"
    with pytest.raises(OutputError, match="nor could it be kept"):
        write_or_keep({tmp_path / "b.png": b"\x89PNG"})
    assert content_of(tmp_path) == []


@pytest.mark.parametrize("shell, printed", [
    ("PYTHONIOENCODING=ascii {}", "\\xb1 \\udcff"),
    ("PYTHONIOENCODING=utf-8 {}", "± \\udcff"),
    ("PYTHONIOENCODING=utf-8 {} <&- >&-", ""),
    ("PYTHONIOENCODING=utf-8 {} <&- 2>&-", "± \\udcff"),
])
def test_any_text_prints_on_any_terminal(shell, printed):
    program = (
        "from utils.output import safe_streams; safe_streams(); import os, sys; print(\"± \\udcff\", flush=True); "
        "print(\"±\", file=sys.stderr); sys.exit(os.open(\"/dev/null\", 0) < 3 or 7)"
    )
    command = shell.format(f"'{sys.executable}' -c '{program}'")
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout.decode().strip()) == (7, printed), done.stderr
