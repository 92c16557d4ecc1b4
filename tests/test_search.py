"""Search over one's own images: the index, the nearest rows, compression, and scripts/search.py as a whole."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import benchmark_search
import search
from indices import SETTINGS, fill, numbered
from locks import can_lock
from processes import Started
from programs import BLANK
from thin import SHORT
from trees import sysu_tree, write_image

import test as evaluation
from assembly import gallery as searching
from assembly.recipe import build_network
from assembly.trained import load_run
from configs.load import load_config
from data.pixels import eval_transform, open_image
from models.build import MODELS
from utils.output import replacing
from utils.retrieval import nearest
from utils.retrieval.compress import (
    CompressionError,
    load_directions,
    principal_directions,
    project,
    save_directions,
)
from utils.retrieval.index import SearchIndexError, open_index
from utils.retrieval.nearest import FaissMissing, faiss_search, search_exact
from utils.training.checkpoint import CheckpointError, save_checkpoint

pytestmark = pytest.mark.usefixtures("thin")


# The command


def checkpoint(folder: Path, name: str = "cmfn", seed: int = 0, options: list[str] = SHORT) -> Path:
    """A file as train.py writes it, of an untrained network; a short one where it is not itself what is searched by."""
    file = f"quickstart_{name}"
    cfg = load_config(ROOT / "configs" / f"{file}.yaml", [
        "DATA.WORKERS", "0", "DEVICE", "cpu", "TEST.BATCH", "4", "OUTPUT", str(folder),
        *options,
    ])
    torch.manual_seed(seed)
    model = build_network(cfg, classes=3)
    folder.mkdir(parents=True, exist_ok=True)
    state = {"config": cfg.dump(), "model": model.state_dict(), "identities": [1, 2, 3], "epoch": 1, "step": 0}
    save_checkpoint(folder / "last.pth", state)
    return folder / "last.pth"


@pytest.fixture(scope="module")
def cmfn(tmp_path_factory, thin):
    return checkpoint(tmp_path_factory.mktemp("run"))


def write_images(folder: Path, numbers) -> Path:
    for number in numbers:
        write_image(folder / f"{number:02d}.png", seed=number)
    return folder


def run(program, *arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program", *map(str, arguments)])
        patch.setattr("utils.reporting.plots.png", lambda figure: BLANK)
        program.main()


def find(checkpoint, gallery, query, output, *more) -> dict[str, list[tuple[str, float]]]:
    """{query's name: [(image's name, score), ...]} as scripts/search.py writes them."""
    run(search, "--checkpoint", checkpoint, "--gallery", gallery, "--query", query, "--output", output, *more)
    found = {}
    with open(output / "ranking.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            results = found.setdefault(Path(row["query"]).name, [])
            results.append((str(Path(row["image"]).relative_to(gallery)), float(row["score"])))
            assert row["rank"] == str(len(results))
    return found


@pytest.fixture
def embedded(monkeypatch) -> list[int]:
    """Numbers of images that each forward pass had."""
    sizes, embed = [], searching.Embedder.__call__
    monkeypatch.setattr(
        searching.Embedder, "__call__", lambda self, images, ir: (sizes.append(len(images)), embed(self, images, ir))[1]
    )
    return sizes


@pytest.mark.parametrize("name", MODELS)
def test_an_image_finds_itself_first_with_score_one(name, tmp_path):
    gallery = write_images(tmp_path / "gallery", range(5))
    found = find(checkpoint(tmp_path / "run", name, options=[]), gallery, gallery, tmp_path / "out",
                 "--query-modality", "vis", "--top", 3)
    assert [*found] == [f"{number:02d}.png" for number in range(5)]
    for query, results in found.items():
        scores = [score for _, score in results]
        assert results[0][0] == query and scores[0] == pytest.approx(1, abs=1e-5)
        assert scores == sorted(scores, reverse=True) and scores[1] < 1 - 1e-4 and len(scores) == 3
    with Image.open(tmp_path / "out" / "ranking.jpg") as sheet:
        assert sheet.width > 4 * search.SHEET_HEIGHT / 2 and sheet.height > 5 * search.SHEET_HEIGHT


def test_by_the_inner_product_a_search_ranks_as_the_test_does(cmfn, tmp_path):
    """Lengths of the gallery's embeddings count; an index of the one score is not taken for the other."""
    gallery, query = write_images(tmp_path / "gallery", range(5)), write_images(tmp_path / "query", [7])
    found = find(cmfn, gallery, query, tmp_path / "out", "--score", "inner")["07.png"]
    model, cfg, _ = load_run(cmfn, [], complete=False)
    images = torch.stack([
        eval_transform(open_image(str(path), cfg.DATA.HEIGHT, cfg.DATA.WIDTH))
        for path in [*sorted(gallery.iterdir()), query / "07.png"]
    ])
    scale = model.eval().column_scale("equal")
    with torch.inference_mode():
        rows, probe = model.embed(images[:5], infrared=False) * scale, model.embed(images[5:], infrared=True) * scale
    lengths = rows.norm(dim=1)
    assert lengths.max() > 1.0001 * lengths.min()
    expected = {f"{i:02d}.png": score for i, score in enumerate((rows @ probe[0]).tolist())}
    assert dict(found) == pytest.approx(expected, abs=1e-4)
    assert [score for _, score in found] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-4)
    with pytest.raises(SearchIndexError, match="score"):
        find(cmfn, gallery, query, tmp_path / "out")


def test_a_search_embeds_without_tf32(monkeypatch):
    """As a test does, so that scores are the same on every device."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = []

    class Network(torch.nn.Module):
        def embed(self, images, infrared, flip):
            seen.append(torch.backends.cudnn.allow_tf32)
            return images.mean(dim=(2, 3))

    searching.Embedder(Network(), torch.ones(3), None, False, torch.device("cpu"))(torch.rand(2, 3, 4, 2), True)
    assert seen == [False] and torch.backends.cudnn.allow_tf32


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
        os.kill(os.getpid(), signal.SIGTERM)

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


def test_broken_images_are_named_and_left_out(cmfn, tmp_path, capsys):
    gallery, query = write_images(tmp_path / "gallery", range(5)), write_images(tmp_path / "query", [9])
    (gallery / "02.png").write_bytes((gallery / "02.png").read_bytes()[:80])
    (gallery / "text.jpg").write_text("no image")
    (gallery / "nowhere.jpg").symlink_to(tmp_path / "missing.jpg")
    (query / "broken.png").write_bytes(b"")
    found = find(cmfn, gallery, query, tmp_path / "out")
    assert {name for name, _ in found["09.png"]} == {"00.png", "01.png", "03.png", "04.png"} and [*found] == ["09.png"]
    output = capsys.readouterr().out
    assert "4 images were left out" in output
    assert all(name in output for name in ("02.png is broken", "text.jpg", "nowhere.jpg", "broken.png"))
    with pytest.raises(search.SearchError, match="broken.png is broken"):
        find(cmfn, gallery, query / "broken.png", tmp_path / "out")


def test_an_embedding_that_is_not_finite_is_left_out(cmfn, tmp_path, capsys, monkeypatch):
    gallery = write_images(tmp_path / "gallery", range(3))
    embed = searching.Embedder.__call__

    def spoiled(self, images, infrared):
        embeddings = embed(self, images, infrared).clone()
        embeddings[1:2, 0] = torch.nan
        return embeddings

    monkeypatch.setattr(searching.Embedder, "__call__", spoiled)
    found = find(cmfn, gallery, gallery / "00.png", tmp_path / "out")
    assert [name for name, _ in found["00.png"]] in (["00.png", "02.png"], ["02.png", "00.png"])
    assert "01.png is not finite" in capsys.readouterr().out


@pytest.mark.parametrize("option, message", [
    (("--gallery", "nowhere"), "which is no folder"), (("--query", "nowhere"), "neither an image nor a folder"),
    (("--gallery", "empty"), "no image that can be searched"), (("--query", "empty"), "there is no query"),
])
def test_nothing_to_search_is_said(cmfn, tmp_path, monkeypatch, option, message):
    write_images(tmp_path / "gallery", range(2))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = {"--gallery": "gallery", "--query": "gallery"} | dict([option])
    with pytest.raises(search.SearchError, match=message):
        run(search, "--checkpoint", cmfn, "--output", "out", *(word for pair in arguments.items() for word in pair))


def test_what_a_folder_holds(tmp_path):
    root = tmp_path / "photos"
    for name in ("b.JPG", "a.png", "sub/c.bmp", ".hidden.png", ".folder/d.png", "sub/deep/e.webp"):
        write_image(root / name)
    (root / "notes.txt").write_text("no image")
    (root / "folder.png").mkdir()
    (root / "sub" / "link.png").symlink_to(root / "a.png")            # listed already
    (root / "sub" / "outside.png").symlink_to(write_images(tmp_path / "outside", [1]) / "01.png")
    (root / "sub" / "loop").symlink_to(root, target_is_directory=True)
    os.link(root / "b.JPG", root / "sub" / "same.jpg")
    for name in ("ranking.jpg", "sub/ranking.jpg"):
        write_image(root / name, seed=7)
    (root / "sub" / "ranking.csv").touch()  # by which the image beside it is a search's
    names = ["a.png", "b.JPG", "ranking.jpg", "sub/c.bmp", "sub/outside.png", "sub/deep/e.webp"]
    others = []
    assert [*searching.list_images(root, others)] == names and others == ["notes.txt"]


def test_files_that_are_not_read_are_counted_and_named(cmfn, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data.formats.reads_heif", lambda: False)
    gallery, nights = write_images(tmp_path / "gallery", [1]), write_images(tmp_path / "nights", [2])
    for name in ("a.heic", "deep/b.HEIC", "walk.mp4", "Thumbs.db", ".hidden.gif"):
        (gallery / name).parent.mkdir(exist_ok=True)
        (gallery / name).touch()
    (nights / "c.gif").touch()
    run(search, "--checkpoint", cmfn, "--gallery", gallery, "--query", nights, "--output", tmp_path / "out")
    said = capsys.readouterr().out
    assert f"note: in {nights}, 1 file is not read: 1 .gif (such as c.gif)" in said
    assert f"note: in {gallery}, 3 files are not read: 2 .heic (such as a.heic; to read them: pip install " in said
    (gallery / "01.png").unlink()
    with pytest.raises(search.SearchError, match="(?s)no image that can be searched.*3 files are not read: 2 .heic"):
        run(search, "--checkpoint", cmfn, "--gallery", gallery, "--query", nights, "--output", tmp_path / "out")


def test_a_name_is_one_line_also_with_control_characters_and_bytes_that_are_no_text():
    assert searching.shown("a\nb\x1b[0m\u2028c\udcffé 人") == "a\\nb\\x1b[0m\\u2028c\\udcffé 人"


def test_a_file_name_with_a_line_end_is_printed_in_one(cmfn, tmp_path, capsys):
    gallery = write_images(tmp_path / "gallery", [1])
    (gallery / "01.png").rename(gallery / "a\nb.png")
    run(search, "--checkpoint", cmfn, "--gallery", gallery, "--query", gallery, "--output", tmp_path / "out")
    assert "  a\\nb.png\n" in capsys.readouterr().out


@pytest.mark.parametrize("lines", [1, 10**5])
def test_a_program_whose_output_nobody_reads_ends_without_a_word(lines):
    code = f"from utils.stop import fail_clearly\nfail_clearly(lambda: print('line\\n' * {lines}), (OSError,))"
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
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


def test_without_a_terminal_a_line_now_and_then_tells_how_far_it_is(cmfn, tmp_path, capsys, monkeypatch):
    gallery = write_images(tmp_path / "gallery", range(6))
    for seconds, expected in ((0, ["gallery: 4 of 6 images", "gallery: 6 of 6 images"]), (60, [])):
        monkeypatch.setattr(searching, "PROGRESS", seconds)
        find(cmfn, gallery, gallery / "00.png", tmp_path / f"out{seconds}")
        assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("gallery:")] == expected


# The index


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


# The nearest rows


def unit(*shape) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


@pytest.mark.parametrize("chunk_bytes", [1, 3000, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_exact_search_is_brute_force(chunk_bytes, dtype):
    queries, matrix = unit(7, 12), unit(101, 12).numpy().astype(dtype)
    current = np.arange(101) % 5 != 0
    scores, rows = search_exact(queries, matrix, current, 10, chunk_bytes)
    for query, score, row in zip(queries.numpy(), scores.numpy(), rows.tolist()):
        products = {i: float(matrix[i].astype(np.float32) @ query) for i in np.flatnonzero(current)}
        assert row == sorted(products, key=products.get, reverse=True)[:10]
        np.testing.assert_allclose(score, [products[i] for i in row], atol=1e-6)


def test_equal_scores_go_to_the_earlier_row_and_no_more_rows_come_than_take_part():
    matrix = np.tile(np.float32([[1, 0], [-1, 0], [0, 1]]), (3, 1))
    current = np.array([False, True, True, True, True, True, True, False, False])
    for chunk_bytes in (1, None):
        scores, rows = search_exact(torch.tensor([[1.0, 0.0]]), matrix, current, 8, chunk_bytes)
        assert rows.tolist() == [[3, 6, 2, 5, 1, 4]] and scores.tolist() == [[1, 1, 0, 0, -1, -1]]


def people(images: int, queries: int, width: int) -> tuple[torch.Tensor, np.ndarray]:
    """Queries and gallery rows around the same centres."""
    centres = unit(40, width)
    noise = 0.5 / width**0.5
    return (
        F.normalize(centres[torch.arange(queries) % 40] + noise * torch.randn(queries, width)),
        F.normalize(centres[torch.arange(images) % 40] + noise * torch.randn(images, width)).numpy(),
    )


def test_faiss_gives_the_exact_answers_of_current_rows_also_when_rows_are_added(tmp_path):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    queries, matrix = people(4000, 50, 300)
    sentences, file = [], tmp_path / "faiss.index"
    for number in (1200, 1300, 4000):
        current = np.arange(number) % 3 != 0
        scores, rows = faiss_search(queries, matrix[:number], current, 5, tmp_path, sentences.append)()
        _, exact_rows = search_exact(queries, matrix[:number], current, 5)
        assert (rows == exact_rows).float().mean() > 0.97 and current[rows.numpy()].all()
        one, _ = faiss_search(queries[:1], matrix[:number], current, 5, tmp_path, lambda _: None)()
        torch.testing.assert_close(one, scores[:1])
        products = (matrix[rows.numpy()] * queries[:, None].numpy()).sum(axis=2)
        np.testing.assert_allclose(scores, products, atol=1e-6)
    assert sum("of the exact answers of 32 queries" in sentence for sentence in sentences) == 3
    assert [s for s in sentences if not s.startswith("FAISS gives")] == [
        "training FAISS on 1200 embeddings", f"adding 1200 embeddings to {file}", f"adding 100 embeddings to {file}",
        "training FAISS on 4000 embeddings", f"adding 4000 embeddings to {file}",
    ]


def test_where_faiss_misses_answers_the_search_is_exact(tmp_path, monkeypatch):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    queries, matrix = unit(20, 16), unit(2000, 16).numpy()  # without neighbourhoods that lists could follow
    monkeypatch.setattr(nearest, "PROBES", (1,))
    sentences, current = [], np.ones(2000, dtype=bool)
    scores, rows = faiss_search(queries, matrix, current, 10, tmp_path, sentences.append)()
    assert "less than 95 %: searching exactly instead" in sentences[-1]
    exact_scores, exact_rows = search_exact(queries, matrix, current, 10)
    assert torch.equal(rows, exact_rows) and torch.equal(scores, exact_scores)


@pytest.mark.parametrize("damage", ["garbage", "another width", "another kind", "more rows"])
def test_a_faiss_index_of_something_else_is_made_anew(tmp_path, damage):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    queries, matrix = people(1200, 5, 12)
    file, current = tmp_path / "faiss.index", np.ones(1000, dtype=bool)
    if damage == "garbage":
        file.write_bytes(b"garbage" * 100)
    elif damage == "another kind":
        flat = faiss.IndexFlatIP(12)
        flat.add(matrix[:1000])
        faiss.write_index(flat, str(file))
    else:
        nearest.faiss_index(faiss, matrix[:, :8].copy() if damage == "another width" else matrix, tmp_path, str)
    sentences = []
    faiss_search(queries, matrix[:1000], current, 5, tmp_path, sentences.append)
    assert sentences[0] == "training FAISS on 1000 embeddings"
    assert faiss.read_index(str(file)).ntotal == 1000 and faiss.read_index(str(file)).d == 12


@pytest.fixture
def checks(monkeypatch) -> list[tuple[int, int]]:
    """Of each check of FAISS, rows and queries."""
    made, checked = [], nearest.checked

    def noting(*arguments):
        check = checked(*arguments)
        made.append((check["rows"], check["queries"]))
        return check

    monkeypatch.setattr(nearest, "checked", noting)
    return made


def test_a_check_of_faiss_holds_until_the_index_has_grown_or_more_is_asked(tmp_path, checks):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    queries, matrix = people(2200, 50, 12)

    def call(rows: int, number: int, top: int, kind: str = "ir") -> list[tuple[int, int]]:
        current, sentences = np.ones(rows, dtype=bool), []
        faiss_search(queries[:number], matrix[:rows], current, top, tmp_path, sentences.append, kind)()
        assert "of the exact answers" in sentences[-1]
        made = checks.copy()
        checks.clear()
        return made

    assert call(1000, 3, 5) == [(1000, 3)]
    assert call(1000, 3, 5) == call(1099, 2, 4) == []
    assert call(1099, 3, 6) == [(1099, 3)]        # more answers
    assert call(1099, 50, 6) == [(1099, 32)]      # more queries
    assert call(1208, 50, 6) == []
    assert call(1209, 50, 6) == [(1209, 32)]      # a tenth more rows
    assert call(1209, 50, 6, "vis") == call(1209, 50, 6) == [(1209, 32)]  # of another modality, and back
    (tmp_path / "faiss.json").write_text("[]")
    assert call(1209, 1, 1) == [(1209, 1)]
    (tmp_path / "faiss.index").unlink()
    assert call(1209, 1, 1) == [(1209, 1)]        # of another index


def test_that_faiss_misses_answers_is_kept_too(tmp_path, monkeypatch, checks):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    queries, matrix = unit(20, 16), unit(2000, 16).numpy()
    monkeypatch.setattr(nearest, "PROBES", (1,))
    current, sentences = np.ones(2000, dtype=bool), []
    results = [faiss_search(queries, matrix, current, 10, tmp_path, sentences.append)() for _ in range(2)]
    assert len(checks) == 1 and "searching exactly instead" in sentences[-1]
    assert torch.equal(results[1][1], search_exact(queries, matrix, current, 10)[1])
    monkeypatch.setitem(nearest.FAISS_FROM, "cpu", 1)
    assert not nearest.faiss_pays(20, matrix, 10, torch.device("cpu"), tmp_path)


def test_faiss_is_taken_for_much_work_for_little_memory_and_once_it_is_checked(cmfn, tmp_path, monkeypatch, capsys):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    gallery = write_images(tmp_path / "gallery", range(5))

    def by_faiss(output: str) -> bool:
        find(cmfn, gallery, gallery, tmp_path / output)
        return "FAISS gives 100.0 % of the exact answers of 5 queries" in capsys.readouterr().out

    assert not by_faiss("small")
    with monkeypatch.context() as patch:
        patch.setitem(nearest.FAISS_FROM, "cpu", 5 * 5 * 768)
        assert by_faiss("work")
    for bytes_left, expected in ((5 * 768 * 4, False), (5 * 768 * 4 - 1, True)):
        with monkeypatch.context() as patch:
            patch.setattr(nearest, "available_memory", lambda: bytes_left)
            assert by_faiss("memory") == expected
    assert by_faiss("work") and by_faiss("memory") and not by_faiss("small")


def test_the_available_memory_is_the_systems(monkeypatch):
    if Path("/proc/meminfo").exists():
        assert 2**20 < nearest.available_memory() < 2**50
    for content in (lambda _: "MemFree: 1 kB", lambda _: (_ for _ in ()).throw(FileNotFoundError)):
        monkeypatch.setattr(Path, "read_text", content)
        assert nearest.available_memory() == float("inf")


def test_nobody_else_uses_the_index_while_faiss_is_made_ready(cmfn, tmp_path, monkeypatch):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    gallery, tried = write_images(tmp_path / "gallery", range(3)), []

    def noting(function):
        def call(*arguments):
            assert not can_lock(searching.index_folder(tmp_path / "out", gallery, "vis"), "index")
            tried.append(function.__name__)
            return function(*arguments)
        return call

    for function in (nearest.faiss_index, nearest.checked):
        monkeypatch.setattr(nearest, function.__name__, noting(function))
    find(cmfn, gallery, gallery, tmp_path / "out", "--method", "faiss")
    assert tried == ["faiss_index", "checked"]


def test_faiss_on_a_folder_of_images(cmfn, tmp_path, capsys):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    gallery = write_images(tmp_path / "gallery", range(7))
    exact = find(cmfn, gallery, gallery, tmp_path / "out", "--top", 9)
    found = find(cmfn, gallery, gallery, tmp_path / "out", "--top", 9, "--method", "faiss")
    assert "FAISS gives 100.0 % of the exact answers of 7 queries" in capsys.readouterr().out
    for query in exact:
        assert len(found[query]) == 7
        for name, score in dict(exact[query]).items():  # of five digits, whose difference as floats is not exactly 1e-5
            assert round(abs(dict(found[query])[name] - score), 7) <= 1e-5


def test_without_faiss_a_large_search_is_exact_and_says_what_to_install(cmfn, tmp_path, monkeypatch, capsys):
    gallery = write_images(tmp_path / "gallery", range(3))
    exact = find(cmfn, gallery, gallery, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setitem(nearest.FAISS_FROM, "cpu", 1)
    capsys.readouterr()
    assert find(cmfn, gallery, gallery, tmp_path / "out") == exact
    assert "requirements-optional.txt" in capsys.readouterr().out
    with pytest.raises(FaissMissing, match="requirements-optional.txt"):
        find(cmfn, gallery, gallery, tmp_path / "out", "--method", "faiss")


# Compression


@pytest.mark.parametrize("images", [30, 12, 5])
def test_directions_are_the_right_singular_vectors_and_orthonormal(images):
    features = torch.randn(images, 12)
    number = min(images, 12)
    directions = principal_directions(features, number)
    torch.testing.assert_close(directions.T @ directions, torch.eye(number))
    singular = torch.linalg.svd(features.double(), full_matrices=False).Vh.T.float()
    torch.testing.assert_close((directions * singular).sum(dim=0).abs(), torch.ones(number))


def test_all_directions_keep_every_product_and_fewer_change_them_least():
    features, queries = torch.randn(50, 10) * torch.arange(1, 11) + 3, torch.randn(6, 10)
    products = features @ features.T
    everything = principal_directions(features, 10)
    torch.testing.assert_close(project(queries, everything) @ project(features, everything).T, queries @ features.T)

    def error(directions):
        short = project(features, directions)
        return (products - short @ short.T).square().sum()

    best = error(principal_directions(features, 3))
    eigenvalues = torch.linalg.eigvalsh(products.double()).flip(0)
    torch.testing.assert_close(best.double(), eigenvalues[3:].square().sum(), rtol=1e-4, atol=0.0)
    centred = principal_directions(features - features.mean(dim=0), 3)
    assert best < error(centred) and all(best < error(torch.linalg.qr(torch.randn(10, 3)).Q) for _ in range(20))


def test_more_directions_than_there_are_is_an_error():
    for number in (6, -1):
        with pytest.raises(CompressionError, match=f"EMBEDDING.DIM is {number}; 5 training images.*allow 1 to 5"):
            principal_directions(torch.randn(5, 8), number)


def test_directions_of_other_embeddings_are_not_taken(tmp_path):
    path, directions = tmp_path / "pca.pth", torch.randn(4, 2)
    assert load_directions(path, {}) is None
    save_directions(path, {"sha256": "a", "flip": True}, directions)
    assert torch.equal(load_directions(path, {"sha256": "a", "flip": True}), directions)
    assert load_directions(path, {"sha256": "b", "flip": True}) is None
    path.write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="pca.pth"):
        load_directions(path, {"sha256": "a", "flip": True})


def test_a_compressed_evaluation_and_search_share_what_was_learned(tmp_path, embedded, monkeypatch, capsys):
    path, data = checkpoint(tmp_path / "run"), sysu_tree(tmp_path / "data")
    results = {}
    for dim in (0, 8):
        run(evaluation, "--checkpoint", path, "DATA.ROOT", data, "EMBEDDING.DIM", dim)
        results[dim] = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert {result["weighting"] for result in results[0]} == {"equal", "neck"}
    assert {result["weighting"] for result in results[8]} == {"equal, PCA 8", "neck, PCA 8"}
    assert "equal, PCA 8" in capsys.readouterr().out
    assert (path.parent / "pca-8-equal.pth").exists() and (path.parent / "pca-8-neck.pth").exists()

    monkeypatch.setattr("assembly.embedding.principal_directions", None)  # nothing is learned again
    run(evaluation, "--checkpoint", path, "DATA.ROOT", data, "EMBEDDING.DIM", 8)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["results"] == results[8]
    run(evaluation, "--checkpoint", path, "--reuse", "DATA.ROOT", data, "EMBEDDING.DIM", 8)

    gallery = write_images(tmp_path / "gallery", range(4))
    found = find(path, gallery, gallery, tmp_path / "out", "--query-modality", "vis", "EMBEDDING.DIM", "8")
    assert all(found[name][0] == (name, pytest.approx(1, abs=1e-5)) for name in found)
    assert (searching.index_folder(tmp_path / "out", gallery, "vis") / "embeddings.bin").stat().st_size == 4 * 8 * 4
    with pytest.raises(SearchIndexError, match="another compression"):
        find(path, gallery, gallery, tmp_path / "out")
    with pytest.raises(CompressionError, match="allow 1 to 48"):
        run(evaluation, "--checkpoint", path, "DATA.ROOT", data, "EMBEDDING.DIM", 50)


# What it costs


def test_the_benchmark_measures_every_way_to_search(tmp_path, capsys):
    run(benchmark_search, "--rows", 300, "--numbers", 24, "--queries", 10, "--dims", 6, 12, "--folder", tmp_path)
    output = capsys.readouterr().out
    cells = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("| exact")]
    assert [row[0] for row in cells] == [f"exact, {kind}" for kind in ("float32", "float16", "PCA 6", "PCA 12")]
    answers = [float(row[8]) for row in cells]
    assert answers[0] == 100 and answers[1] > 90 and 0 < answers[2] < answers[3]
    assert [*tmp_path.iterdir()] == []


def test_the_benchmark_compares_compressions_by_their_map(cmfn, tmp_path, capsys):
    data = sysu_tree(tmp_path / "data")
    run(benchmark_search, "--checkpoint", cmfn, "DATA.ROOT", data, "--dims", 4, 48)
    numbers = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert [row[0] for row in numbers] == ["768 (whole)", "48", "4"]
    run(evaluation, "--checkpoint", cmfn, "DATA.ROOT", data, "EMBEDDING.DIM", 4, "--output", tmp_path / "results.json")
    mean = json.loads((tmp_path / "results.json").read_text())["results"][0]["mean"]
    assert numbers[2][1:3] == [f"{100 * mean[key]:.2f}" for key in ("rank1", "mAP")]
