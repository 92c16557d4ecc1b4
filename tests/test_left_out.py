"""Nothing of a folder is left out of a search without a word."""

import os
import sys
from pathlib import Path

import pytest
from trees import write_image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import search

from assembly.gallery import list_images


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_links_to_folders_and_pipes_are_told(tmp_path, capsys):
    write_image(tmp_path / "elsewhere" / "a.png")
    write_image(tmp_path / "photos" / "b.png")
    (tmp_path / "photos" / "yard").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "deep").mkdir()
    (tmp_path / "photos" / "deep" / "round").symlink_to(tmp_path / "photos")
    os.mkfifo(tmp_path / "photos" / "pipe.jpg")
    others = []
    assert [*list_images(tmp_path / "photos", others)] == ["b.png"] and others == ["pipe.jpg"]
    assert f"note: 2 links to folders are not followed, such as {tmp_path}/photos/yard: to" in capsys.readouterr().out


def test_a_folder_without_a_query_is_refused_at_once_with_what_it_has(tmp_path, monkeypatch):
    write_image(tmp_path / "photos" / "b.png")
    (tmp_path / "nights").mkdir()
    (tmp_path / "nights" / "a.gif").touch()
    words = ["--checkpoint", "nowhere", "--gallery", tmp_path / "photos", "--query", tmp_path / "nights", "--output"]
    monkeypatch.setattr(sys, "argv", ["search.py", *map(str, words), str(tmp_path / "out")])
    with pytest.raises(search.SearchError, match="nights has no image, 1 file is not read: 1 .gif .such as a.gif"):
        search.main()
    assert not (tmp_path / "out").exists()
