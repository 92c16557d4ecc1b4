"""The search page tells of what it searched: after a restart, a changed gallery, another upload, a table of faults."""

import re
import shutil
import sys
import threading
from pathlib import Path

import browser as browsers
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

flask = pytest.importorskip("flask", reason="Flask is not installed (requirements-optional.txt)")

import serve

from assembly.search_page.app import search_page, server_of
from assembly.search_page.details import DetailsError, read_table
from data.dataset import open_benchmark

TOKEN = {"X-Token": "the token"}


@pytest.fixture
def gallery(shared_data, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, record in enumerate(r for r in open_benchmark("synthetic", shared_data).test if not r.infrared):
        shutil.copy(record.path, folder / f"{number}.jpg")
    return folder


def opened(trained, gallery, *words):
    with pytest.MonkeyPatch.context() as patch:
        words = ["serve.py", "--checkpoint", trained("quickstart_base"), "--gallery", gallery, "--output",
                 gallery.parent / "out", *words, "DEVICE", "cpu"]
        patch.setattr(sys, "argv", [*map(str, words)])
        return serve.open_lookup(serve.arguments())[0]


def page(lookup):
    return search_page(lookup, "A network", "0" * 64, token="the token").test_client()


def test_an_image_that_was_changed_is_not_shown_for_the_one_that_was_ranked(trained, gallery):
    lookup = opened(trained, gallery)
    client, row = page(lookup), lookup.index.row["0.jpg"]
    assert client.get(f"/image/{row}").status_code == 200
    shutil.copy(gallery / "1.jpg", gallery / "0.jpg")
    assert client.get(f"/image/{row}").status_code == 404
    (gallery / "0.jpg").unlink()
    assert client.get(f"/image/{row}").status_code == 404


def test_images_of_another_start_have_other_addresses(trained, gallery):
    """A browser keeps them for minutes, and row 5 of the next gallery is another person's."""
    lookup = opened(trained, gallery)
    starts = {re.search(r'"start": "(\w{8})"', page(lookup).get("/").text)[1] for _ in range(2)}
    assert len(starts) == 2


def test_numbers_that_are_too_long_are_refused(trained, gallery):
    client, photo = page(opened(trained, gallery)), (gallery / "0.jpg").read_bytes()
    answer = client.post(f"/search?top={'9' * 5000}", data=photo, headers=TOKEN)
    assert answer.status_code == 400 and "the number of results is" in answer.json["error"]
    body = '{"query": "a", "modality": "vis", "results": [[0, ' + "9" * 400 + ', ""]]}'
    answer = client.post("/export?format=csv", data=body, headers=TOKEN)
    assert answer.status_code == 400 and "is no ranking of this gallery" in answer.json["error"]


@pytest.mark.parametrize("lines, message", [
    ('a.jpg,"door,\nb.jpg,yard,', "cannot be read (unexpected end of data)"),  # else b.jpg would have no camera
    ("a.jpg,door,,2024-05-01", "line 2: there is a cell too many; fix the line"),
    (",door,2024-05-01", "line 2: there is no image; fix the line"),
    ("a.jpg,door,\n./a.jpg,yard,", "line 3: ./a.jpg was listed before; an image comes once"),
    ("a.jpg,1,2024-05-01T13:45+02:00\nb.jpg,1,2024-05-01T13:45",
     "line 3: 2024-05-01T13:45 is of another time zone than times before it; write all in one"),
])
def test_a_table_of_mistakes(tmp_path, lines, message):
    (tmp_path / "a.csv").write_text(f"image,camera,time\n{lines}\n")
    with pytest.raises(DetailsError, match=re.escape(message)):
        read_table(tmp_path / "a.csv")


def test_a_table_of_other_images_is_named(trained, gallery, capsys):
    table = gallery.parent / "a.csv"
    table.write_text("image,camera\n0.jpg,door\nphotos/1.jpg,door\nphotos/2.jpg,yard\n")
    opened(trained, gallery, "--details", table)
    assert f"note: {table} names 2 images that the gallery lacks, such as photos/1.jpg\n" in capsys.readouterr().out


def test_a_ranking_is_never_marked_or_exported_as_another_images(trained, gallery, tmp_path, monkeypatch):
    """While the next image is searched for, the ranking of the one before is out of reach."""
    if not browsers.installed():
        pytest.skip(f"there is none of {', '.join(browsers.BROWSERS)}")
    lookup = opened(trained, gallery)
    search, wait = lookup.search, threading.Event()
    server = server_of(search_page(lookup, "A network", "0" * 64), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with browsers.Browser(tmp_path) as browser:
            browser.open(f"http://127.0.0.1:{server.port}/")
            browser.choose(gallery / "0.jpg", "#file")
            browser.wait("document.querySelectorAll('#results li').length")
            monkeypatch.setattr(lookup, "search", lambda *options: (wait.wait(30), search(*options))[1])
            browser.choose(gallery / "1.jpg", "#file")
            browser.wait("document.getElementById('status').textContent === 'Searching ...'")
            assert browser.evaluate("document.getElementById('found').hidden")
            wait.set()
            browser.wait("!document.getElementById('found').hidden")
            assert "1.jpg" in browser.evaluate("document.querySelector('#results li').innerText")
    finally:
        wait.set()
        server.shutdown()
        thread.join()
