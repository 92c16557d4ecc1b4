"""Search over one's own images: what scripts/search.py finds, and what it says of files that it leaves out."""

import os

import pytest
import search
import torch
from PIL import Image
from searches import checkpoint, find, run, write_images
from trees import write_image

from assembly import gallery as searching
from assembly.trained import load_run
from data.pixels import eval_transform, open_image
from models.build import MODELS
from utils.retrieval.index import SearchIndexError

pytestmark = pytest.mark.usefixtures("thin")


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


def test_without_a_terminal_a_line_now_and_then_tells_how_far_it_is(cmfn, tmp_path, capsys, monkeypatch):
    gallery = write_images(tmp_path / "gallery", range(6))
    for seconds, expected in ((0, ["gallery: 4 of 6 images", "gallery: 6 of 6 images"]), (60, [])):
        monkeypatch.setattr(searching, "PROGRESS", seconds)
        find(cmfn, gallery, gallery / "00.png", tmp_path / f"out{seconds}")
        assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("gallery:")] == expected
