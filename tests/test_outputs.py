"""What programs write: a place that refuses is named before anything is computed, and what was computed isn't lost."""

import errno
import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from PIL import Image
from programs import run

from data import synthetic
from data.records import DataError
from utils import output
from utils.output import OutputError, replacing, require_files, require_folder, write_or_keep
from utils.reporting import sheets

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


CONFIG = "configs/quickstart_cmfn.yaml"
PROGRAMS = {  # {file} stands where a folder is wanted; what else is named is missing or broken too, and comes later
    "visualize": ["{place}", "--parts", "ranking", "--output", "{file}/pictures"],
    "export": ["--checkpoint", "{place}", "--format", "torchscript", "--output", "{file}/network.ts"],
    "search": ["--checkpoint", "{place}", "--gallery", "{place}", "--query", "{file}", "--output", "{file}/found"],
    "search.py --index": [
        "--checkpoint", "{place}", "--gallery", "{place}", "--query", "{file}", "--output", "{place}",
        "--index", "{file}",
    ],
    "model_card": ["{place}", "--output", "{file}/card.md"],
    "prepare": ["--config", CONFIG, "DATA.ROOT", "{place}", "DATA.CACHE", "{file}/cache"],
    "average_splits": ["{place}/1.json", "--output", "{file}/results.json"],
    "reproduce_table": ["{place}/results.json", "--output", "{file}/tables"],
    "compare_methods": ["--configs", CONFIG, "--output", "{file}"],
    "ablation": ["--config", CONFIG, "--output", "{file}/in/it"],
    "cost": ["--config", CONFIG, "--reference", CONFIG, "--output", "{file}/cost.json", "DATA.ROOT", "{place}"],
    "contact_sheet": ["--root", "{place}", "--output", "{file}/sheet.jpg"],
    "make_sysu_stub": ["--split", "{place}/exp", "--output", "{file}/stub"],
    "benchmark_search": ["--folder", "{file}"],
    "check_device": ["--quick", "--output", "{file}"],
}


@pytest.fixture
def place(tmp_path):
    """A folder with a file, and with what some programs look for before they look at where they write."""
    place = tmp_path / "place"
    (place / "exp").mkdir(parents=True)
    for name in ("file", "exp/test_id.txt", "exp/train_id.txt", "exp/rand_perm_cam.mat"):
        (place / name).touch()
    return place


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_names_a_place_that_refuses_before_it_computes(program, place):
    before = content_of(place)
    arguments = [word.format(place=place, file=place / "file") for word in PROGRAMS[program]]
    done = run(f"scripts/{program.split('.')[0]}.py", *arguments, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: {place / 'file'}") and "cannot be written (" in done.stderr
    assert done.stdout == "" and content_of(place) == before


def test_a_report_is_not_begun_where_it_cannot_be_written():
    if not Path("/proc/self").exists():
        pytest.skip("this system has no /proc")
    done = run("scripts/report.py", "/proc/self", check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: /proc/self cannot be written (")


def test_a_table_that_a_full_disk_refuses_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(output.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(output, "write_atomically", full)
    done = run("scripts/reproduce_table.py", "--output", tmp_path / "tables", check=False)
    assert done.returncode == 1 and "written:" not in done.stdout
    for suffix in ("tex", "md", "csv"):
        kept, = tmp_path.rglob(f"sysu_mm01.{suffix}")
        assert f"it is kept as {kept}" in done.stderr and kept.stat().st_size > 1000


def test_a_sheet_that_a_full_disk_refuses_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(output.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(output, "write_atomically", full)
    with pytest.raises(sheets.SheetError, match="No space left on device.*it is kept as"):
        sheets.save(Image.new("RGB", (2, 3)), tmp_path / "sheet.png")
    kept, = tmp_path.rglob("sheet.png")
    assert Image.open(kept).size == (2, 3)
    with pytest.raises(sheets.SheetError, match="no format of images has its suffix"):
        sheets.save(Image.new("RGB", (2, 3)), tmp_path / "sheet.text")


def test_an_exported_file_that_a_full_disk_refuses_is_kept(tmp_path, monkeypatch):
    from export import write_somewhere

    monkeypatch.setattr(output.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "full").symlink_to("/dev/full")
    file, refused = write_somewhere(tmp_path / "full", "network.ts", b"weights")
    assert file.name == "network.ts" and file.read_bytes() == b"weights" and refused.errno == errno.ENOSPC
    assert write_somewhere(tmp_path / "free", "network.ts", b"weights") == (tmp_path / "free", None)


@pytest.mark.parametrize("make, said", [
    (lambda root: root.touch(), "is no embedded data set"),
    (lambda root: root.symlink_to("nowhere"), "is a link"),
    (lambda root: root.symlink_to("."), "is no embedded data set"),
])
def test_the_embedded_data_set_is_not_drawn_where_it_cannot_stand(make, said, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "write_images", lambda *_: pytest.fail("drawn"))
    make(tmp_path / "root")
    with pytest.raises(DataError, match=said):
        synthetic.write_synthetic(tmp_path / "root")
    monkeypatch.setattr(synthetic.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(free=10**6))
    with pytest.raises(DataError, match=r"needs 77 MB, and the disk of \S+ has 1 MB left"):
        synthetic.write_synthetic(tmp_path / "another")


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
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout.decode().strip()) == (7, printed), done.stderr


@pytest.mark.parametrize("lines", [1, 10**5])
def test_a_program_whose_output_nobody_reads_ends_without_a_word(lines):
    code = f"from utils.stop import fail_clearly\nfail_clearly(lambda: print('line\\n' * {lines}), (OSError,))"
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert ended.stderr == b"" and ended.returncode == 128 + signal.SIGPIPE


def test_programs_that_write_the_same_file_do_not_meet(tmp_path, monkeypatch):
    path = tmp_path / "ranking.jpg"
    with replacing(path) as one:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with replacing(path) as other:
            one.write_text("one")
            other.write_text("other")
        assert path.read_text() == "other"
    assert path.read_text() == "one" and [*tmp_path.iterdir()] == [path]
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.touch()
        raise ZeroDivisionError
    assert path.read_text() == "one" and [*tmp_path.iterdir()] == [path]
