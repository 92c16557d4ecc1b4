"""The index of a search: whose it is, what is embedded again, and what a kill or a full disk leaves of it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import search
from indices import SETTINGS, fill, numbered
from processes import Started
from programs import ROOT
from searches import checkpoint, find, write_images
from trees import write_image

from assembly import gallery as searching
from utils.retrieval.index import SearchIndexError, open_index

pytestmark = pytest.mark.usefixtures("thin")


@pytest.fixture
def embedded(monkeypatch) -> list[int]:
    """Numbers of images that each forward pass had."""
    sizes, embed = [], searching.Embedder.__call__
    monkeypatch.setattr(
        searching.Embedder, "__call__", lambda self, images, ir: (sizes.append(len(images)), embed(self, images, ir))[1]
    )
    return sizes


def test_modalities_have_indices_of_their_own(cmfn, tmp_path):
    gallery = write_images(tmp_path / "gallery", range(3))
    by_day = find(cmfn, gallery, gallery / "00.png", tmp_path / "out")
    by_night = find(cmfn, gallery, gallery / "00.png", tmp_path / "out", "--gallery-modality", "ir")
    assert by_night["00.png"][0] == ("00.png", pytest.approx(1, abs=1e-5))
    assert max(score for _, score in by_day["00.png"]) < 1 - 1e-4  # the stems differ
    names = sorted(path.name for path in (tmp_path / "out" / "index").iterdir())
    assert len(names) == 2 and re.fullmatch(r"gallery-(\w{8})-ir gallery-\1-vis", " ".join(names))


def test_galleries_of_the_same_name_have_indices_of_their_own(cmfn, tmp_path):
    one, other = write_images(tmp_path / "a" / "photos", [1]), write_images(tmp_path / "b" / "photos", [2])
    (other / "02.png").rename(other / "01.png")
    for path in (one, other):
        os.utime(path / "01.png", (1, 1))  # name, size and time are the same
    assert (one / "01.png").stat().st_size == (other / "01.png").stat().st_size
    day = ("--query-modality", "vis")
    find(cmfn, one, one, tmp_path / "out", *day)
    assert find(cmfn, other, other, tmp_path / "out", *day)["01.png"] == [("01.png", pytest.approx(1, abs=1e-5))]
    with pytest.raises(SearchIndexError, match=f"another gallery .*{one}, now {other}.*add --rebuild"):
        find(cmfn, other, other, tmp_path / "out", "--index", searching.index_folder(tmp_path / "out", one, "vis"))


def test_only_new_and_changed_images_are_embedded_and_gone_ones_not_found(cmfn, tmp_path, embedded):
    gallery, query = write_images(tmp_path / "gallery", range(6)), write_images(tmp_path / "query", [9]) / "09.png"
    before = dict(find(cmfn, gallery, query, tmp_path / "out")["09.png"])
    assert embedded == [1, 4, 2]
    write_images(gallery / "more", [6, 7])
    (gallery / "01.png").unlink()
    write_image(gallery / "02.png", seed=99)
    after = dict(find(cmfn, gallery, query, tmp_path / "out")["09.png"])
    assert embedded[3:] == [1, 3]  # the query; 02 and the new ones
    assert {*after} == {"00.png", "02.png", "03.png", "04.png", "05.png", "more/06.png", "more/07.png"}
    assert after["03.png"] == pytest.approx(before["03.png"], abs=1e-6)
    assert abs(after["02.png"] - before["02.png"]) > 1e-4
    assert after == pytest.approx(dict(find(cmfn, gallery, query, tmp_path / "anew")["09.png"]), abs=1e-5)


def test_a_stopped_run_goes_on_where_it_was(cmfn, tmp_path, embedded, monkeypatch):
    gallery, query = write_images(tmp_path / "gallery", range(10)), write_images(tmp_path / "query", [9]) / "09.png"
    append = searching.SearchIndex.append

    def stopped(self, *arguments):
        append(self, *arguments)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(searching.SearchIndex, "append", stopped)
        with pytest.raises(search.SearchError, match="stopped by SIGTERM with 4 of 10 images"):
            find(cmfn, gallery, query, tmp_path / "out")
    assert len(find(cmfn, gallery, query, tmp_path / "out")["09.png"]) == 10
    assert embedded == [1, 4, 1, 4, 2]


def test_killed_while_embedding_it_goes_on_where_it_was(cmfn, tmp_path, embedded):
    gallery, query = write_images(tmp_path / "gallery", range(40)), write_images(tmp_path / "query", [9]) / "09.png"
    entries = searching.index_folder(tmp_path / "out", gallery, "vis") / "entries.jsonl"
    process = Started(
        tmp_path / "printed", "scripts/search.py", "--checkpoint", cmfn, "--gallery", gallery, "--query", query,
        "--output", tmp_path / "out", "TEST.BATCH", "2",
    )
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None and not (entries.exists() and entries.stat().st_size):
        time.sleep(0.001)
    process.kill()
    assert process.finished()[0] == -signal.SIGKILL
    done = entries.read_bytes().count(b"\n")
    assert 0 < done < 40
    find(cmfn, gallery, query, tmp_path / "out", "TEST.BATCH", "2")
    assert sum(embedded) == 1 + 40 - done
    find(cmfn, gallery, query, tmp_path / "undisturbed", "TEST.BATCH", "2")
    tables = [(tmp_path / name / "ranking.csv").read_bytes() for name in ("out", "undisturbed")]
    assert tables[0] == tables[1]


def test_an_index_of_another_checkpoint_is_refused_until_it_is_rebuilt(cmfn, tmp_path):
    gallery, other = write_images(tmp_path / "gallery", range(3)), checkpoint(tmp_path / "other", seed=1)
    find(cmfn, gallery, gallery / "00.png", tmp_path / "out")
    with pytest.raises(SearchIndexError, match="another checkpoint.*add --rebuild"):
        find(other, gallery, gallery / "00.png", tmp_path / "out")
    for option, what in ((("TEST.FLIP", "false"), "flip"), (("DATA.HEIGHT", "80"), "height")):
        with pytest.raises(SearchIndexError, match=f"another {what}"):
            find(cmfn, gallery, gallery / "00.png", tmp_path / "out", *option)
    rebuilt = find(other, gallery, gallery / "00.png", tmp_path / "out", "--rebuild")
    assert rebuilt == find(other, gallery, gallery / "00.png", tmp_path / "anew")


def test_a_row_counts_when_it_and_its_line_are_whole(tmp_path):
    folder = fill(tmp_path / "index", 3)
    lines, rows = (folder / "entries.jsonl").read_bytes(), (folder / "embeddings.bin").read_bytes()
    ends = [i + 1 for i, byte in enumerate(lines) if byte == ord("\n")]
    cuts = [(cut, len(rows)) for cut in range(len(lines) + 1)] + [(len(lines), cut) for cut in range(len(rows) + 1)]
    for lines_cut, rows_cut in cuts:
        (folder / "entries.jsonl").write_bytes(lines[:lines_cut])
        (folder / "embeddings.bin").write_bytes(rows[:rows_cut])
        whole = min(sum(end <= lines_cut for end in ends), rows_cut // 12)
        with open_index(folder, SETTINGS) as index:
            assert len(index) == whole
            index.append([("new.jpg", (1, 1))], numbered([9]))
        assert index.matrix().tolist() == numbered([*range(whole), 9]).tolist()
        assert [name for name, _ in index.entries] == [*(f"{row}.jpg" for row in range(whole)), "new.jpg"]


def test_killed_while_writing_it_holds_whole_rows_in_order(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[1:3]\n"
        "from indices import fill; fill(Path(sys.argv[3]), 10**9)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(ROOT / "tests"), str(tmp_path / "index")])
    deadline = time.time() + 60
    while not (tmp_path / "index" / "entries.jsonl").exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.wait()
    with open_index(tmp_path / "index", SETTINGS) as index:
        assert len(index) > 0
        assert [name for name, _ in index.entries] == [f"{row}.jpg" for row in range(len(index))]
        assert (index.matrix() == numbered(range(len(index)))).all()


def test_the_last_row_of_a_name_counts_while_its_stamp_is_the_files(tmp_path):
    with open_index(tmp_path / "index", SETTINGS) as index:
        index.append([("a", (1, 1)), ("b", (1, 1)), ("a", (2, 2))], numbered([0, 1, 2]))
    assert index.rows({"a": (2, 2), "b": (1, 1), "c": (1, 1)}).tolist() == [False, True, True]
    assert index.rows({"a": (1, 1)}).tolist() == [False, False, False]


def test_a_full_disk_and_a_damaged_index_are_said(tmp_path, monkeypatch):
    folder = fill(tmp_path / "index", 1)
    with open_index(folder, SETTINGS) as index:
        with pytest.raises(SearchIndexError, match="make room, choose another --index"):
            index.check_room(10**15)
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(SearchIndexError, match="No space left on device.*1 embedding is kept: make room"):
            index.append([("b", (1, 1))], numbered([1]))
    monkeypatch.undo()
    with open_index(folder, SETTINGS) as index:
        assert index.matrix().tolist() == numbered([0]).tolist()
    (folder / "index.json").write_text("{")
    with pytest.raises(SearchIndexError, match="damaged; --rebuild"), open_index(folder, SETTINGS):
        pass
    with open_index(folder, SETTINGS, rebuild=True) as index:
        assert len(index) == 0 and index.matrix().shape == (0, 3)
    assert json.loads((folder / "index.json").read_text())["numbers"] == 3
