"""The search page: what a request is told, who may ask, FAISS, and a real browser."""

import csv
import io
import json
import math
import re
import sys
import threading
from pathlib import Path

import browser as browsers
import numpy as np
import pytest
import serve
import torch
from PIL import Image
from programs import run
from trees import coloured

from assembly.gallery import Embedder
from assembly.search_page import lookup as lookups
from assembly.search_page import uploads
from assembly.search_page.app import search_page, server_of
from assembly.search_page.uploads import UploadError, read_upload
from data.dataset import open_benchmark
from data.pixels import read_image

pytest.importorskip("flask", reason="Flask is not installed (requirements-optional.txt)")

TOKEN = {"X-Token": "the token"}


@pytest.fixture(scope="module")
def night(shared_data):
    return next(Path(r.path) for r in open_benchmark("synthetic", shared_data).test if r.infrared)


def opened(*words):
    """`open_lookup` of a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["serve.py", *map(str, words)])
        return serve.open_lookup(serve.arguments())


@pytest.fixture(scope="module")
def lookup(trained, gallery):
    words = ["--checkpoint", trained("quickstart_base"), "--gallery", gallery, "--output", gallery.parent / "out"]
    return opened(*words, "DEVICE", "cpu")[0]


@pytest.fixture
def client(lookup):
    return search_page(lookup, "A network", "0" * 64, token="the token").test_client()


def search(client, image: Path | bytes, query: str = "", **options):
    content = image if isinstance(image, bytes) else image.read_bytes()
    return client.post(f"/search?{query}", data=content, **{"headers": TOKEN} | options)


def refused(answer, status: int = 400) -> str:
    assert answer.status_code == status, answer.data
    return answer.json["error"]


# Requests


def test_a_ranking_is_that_of_a_search(client, lookup, gallery, night, tmp_path, trained):
    found = search(client, night, "top=4&modality=ir").json
    run("scripts/search.py", "--checkpoint", trained("quickstart_base"), "--gallery", gallery, "--query", night,
        "--output", tmp_path, "--index", lookup.index.folder, "--top", 4)  # the same index: nothing is embedded again
    with open(tmp_path / "ranking.csv", newline="") as file:
        wanted = [(str(Path(row["image"]).relative_to(gallery)), float(row["score"])) for row in csv.DictReader(file)]
    assert [(result["name"], result["score"]) for result in found["results"]] == wanted
    assert (found["modality"], found["guessed"], found["images"]) == ("ir", False, int(lookup.current.sum()))


def test_the_modality_is_guessed_and_said(client, gallery, night):
    by_night, by_day = (search(client, path).json for path in (night, next(gallery.rglob("*.jpg"))))
    assert [(a["modality"], a["guessed"]) for a in (by_night, by_day)] == [("ir", True), ("vis", True)]
    assert by_day["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert by_night["results"] == search(client, night, "modality=ir").json["results"]


def test_cameras_and_times_choose(client, lookup, night):
    everything = search(client, night, "top=200").json["results"]
    for cameras in (["1"], ["1", "4"]):
        found = search(client, night, "top=200" + "".join(f"&camera={camera}" for camera in cameras)).json
        assert found["results"] == [result for result in everything if result["camera"] in cameras]
        assert found["images"] == len(found["results"]) > 0
    found = search(client, night, "top=200&since=2024-05-01T13:02&until=2024-05-01T13:04:00").json["results"]
    assert {result["time"] for result in found} == {f"2024-05-01T13:{minute:02d}:00" for minute in (2, 3, 4)}
    assert search(client, night, "camera=7").json["results"] == []


def test_an_image_is_embedded_once_for_all_filters(client, lookup, night, monkeypatch):
    calls, embed = [], Embedder.__call__
    monkeypatch.setattr(Embedder, "__call__", lambda self, *images: (calls.append(1), embed(self, *images))[1])
    lookup.last = None, None
    for query in ("modality=ir", "modality=ir&camera=1", "modality=ir&top=1"):
        search(client, night, query)
    assert len(calls) == 1
    search(client, night, "modality=vis")
    assert len(calls) == 2


@pytest.mark.parametrize("query, message", [
    ("top=0", "the number of results is '0'; it is 1 to 200"), ("top=x", "the number of results is 'x'"),
    ("modality=x", "modality is 'x'; it is vis, ir or guess"),
    ("since=noon", "since is 'noon', which is no time such as 2024-05-01T13:45"),
])
def test_a_search_that_makes_no_sense(client, night, query, message):
    assert message in refused(search(client, night, query))


def test_a_large_upload_is_refused_before_it_is_read(client, monkeypatch):
    with pytest.raises(UploadError, match="the file has 21 MB; 21 MB are allowed"):
        read_upload(bytes(uploads.MOST_BYTES + 1))
    monkeypatch.setattr("assembly.search_page.app.read_upload", lambda content: pytest.fail("it was read"))
    assert refused(search(client, bytes(uploads.MOST_BYTES + 1)), 413) == "The file is too large; 21 MB are allowed."


def test_an_upload_that_is_none_is_said_and_so_is_what_fails(client, night, lookup, monkeypatch, capsys):
    assert refused(search(client, b"text")).startswith("the file is no image of a known format")
    monkeypatch.setattr(lookup, "last", (None, None))
    monkeypatch.setattr(Embedder, "__call__", lambda self, *_: torch.full((1, 2), torch.nan))
    said = refused(search(client, night), 500)
    assert said == "the embedding of this image is not finite; take another image or checkpoint"
    monkeypatch.setattr(Embedder, "__call__", lambda self, *_: 1 / 0)
    assert refused(search(client, night), 500) == "The program failed; its terminal says how."


def test_gallery_images_are_had_by_their_row_alone(client, lookup, gallery):
    answer = client.get("/image/0")
    with Image.open(io.BytesIO(answer.data)) as image:
        assert image.format == "JPEG" and image.size == read_image(str(gallery / lookup.name(0))).size
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    name = lookup.name(0)
    for path in ("/image/99999", "/image/-1", f"/image/{name}", "/image/..%2f..%2fetc%2fpasswd", f"/{name}"):
        assert refused(client.get(path), 404) == "There is nothing at this address."


def test_images_that_no_longer_take_part_are_not_shown(client, lookup, monkeypatch):
    monkeypatch.setattr(lookup, "current", np.zeros_like(lookup.current))
    assert client.get("/image/0").status_code == 404


def test_a_gallery_image_is_shown_small_and_without_what_its_file_says(client, lookup, monkeypatch, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "where it was taken"
    coloured().resize((600, 1200)).save(tmp_path / "large.jpg", exif=exif)
    monkeypatch.setattr(lookup, "path", lambda row: tmp_path / ("large.jpg" if row else "gone.jpg"))
    content = client.get("/image/1").data
    assert Image.open(io.BytesIO(content)).size == (256, 512) and b"where it was" not in content
    assert client.get("/image/0").status_code == 404


def test_what_is_marked_is_exported(client, lookup, night, monkeypatch):
    results = search(client, night, "top=3").json["results"]
    monkeypatch.setitem(vars(lookup), "cameras", np.array(["=1+1"] * len(lookup.current)))
    asked = {"query": "a\nb.jpg", "modality": "ir",
             "results": [[found["row"], found["score"], mark] for found, mark in zip(results, ("right", "", "wrong"))]}
    table = client.post("/export?format=csv", json=asked, headers=TOKEN)
    assert table.mimetype == "text/csv"
    lines = [*csv.DictReader(io.StringIO(table.text))]
    assert [line["mark"] for line in lines] == ["right", "", "wrong"]
    assert [(line["rank"], line["image"]) for line in lines] == [(str(i), r["name"]) for i, r in enumerate(results, 1)]
    assert lines[0]["query"] == "a\\nb.jpg" and lines[0]["camera"] == "'=1+1"  # no formula for a spreadsheet
    saved = client.post("/export?format=json", json=asked, headers=TOKEN).json
    assert saved["checkpoint"] == "0" * 64 and saved["results"][2]["mark"] == "wrong"
    assert saved["results"][0]["time"] == results[0]["time"] and saved["results"][0]["camera"] == "=1+1"


@pytest.mark.parametrize("asked", [
    None, [], {"query": "a", "modality": "x", "results": []}, *(
        {"query": "a", "modality": "ir", "results": [line]}
        for line in ([99999, 1, ""], [0, 1, "maybe"], ["0", 1, ""], [0, math.inf, ""])
    ),
])
def test_an_export_of_something_else(client, asked):
    said = refused(client.post("/export?format=csv", json=asked, headers=TOKEN))
    assert said == "what is to be exported is no ranking of this gallery; search again"
    assert "format is 'xls'; it is csv or json" in refused(client.post("/export?format=xls", json={}, headers=TOKEN))


# Who may ask


@pytest.mark.parametrize("host, status", [
    ("127.0.0.1:8000", 200), ("localhost", 200), ("[::1]:8000", 200), ("evil.example", 400), ("", 400),
    ("127.0.0.1.evil.example:8000", 400), ("evil.example:127.0.0.1", 400), ("[127.0.0.1", 400),
])
def test_hosts_of_other_names_get_nothing(client, lookup, host, status):
    for path in ("/", "/page.js", "/image/0"):
        assert client.get(path, headers={"Host": host}).status_code == status
    if status == 400:
        said = refused(client.post("/search", headers={"Host": host} | TOKEN), 400)
        assert said == "The request was refused: open the page by the address that the program printed."
    named = search_page(lookup, "", "", hosts=["evil.example"]).test_client()
    assert named.get("/", headers={"Host": "evil.example:80"}).status_code == 200


def test_other_sites_cannot_post(client, night):
    for headers in ({}, {"X-Token": ""}, {"X-Token": "another"}, {"X-Token": "é"}):
        for path in ("/search", "/export?format=csv"):
            said = refused(client.post(path, data=night.read_bytes(), headers=headers), 403)
            assert said == "The page is of an earlier start of the program: load it again."
    assert refused(client.get("/search"), 405) == "This address is asked for in another way."


def test_the_page_refers_to_nothing_elsewhere(client, lookup):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"] and "unsafe" not in str(page.headers)
    together = page.text + client.get("/page.css").text + client.get("/page.js").text
    assert not re.findall(r"https?:|@import|url\(|innerHTML|eval\(", together)
    known = known_to(page.text)
    assert known["token"] == "the token" and known["cameras"] == ["1", "2", "4", "5"]
    tokens = {known_to(search_page(lookup, "", "").test_client().get("/").text)["token"] for _ in range(2)}
    assert len(tokens) == 2 and min(map(len, tokens)) >= 32


def known_to(page: str) -> dict:
    return json.loads(re.search(r'id="known">(.*?)</script>', page)[1])


# FAISS


def test_with_faiss_and_without_the_answers_are_the_same(lookup, night, monkeypatch):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    image = read_image(str(night))
    wanted = lookup.search(image, True, 3)
    loads, load = [], lookups.faiss_index
    monkeypatch.setattr(lookups, "faiss_index", lambda *words: (loads.append(1), load(*words))[1])
    monkeypatch.setattr("utils.retrieval.nearest.faiss_index", lambda *_: pytest.fail("it is loaded already"))
    monkeypatch.setattr(lookup, "faiss", None)
    lookup.get_ready("faiss", 3)
    for _ in range(2):
        found = lookup.search(image, True, 3)
        assert [row for row, _ in found[0]] == [row for row, _ in wanted[0]] and len(loads) == 1
    assert lookup.search(image, True, 3, cameras=["1"])[1] < wanted[1]


def test_auto_takes_faiss_where_it_pays(lookup, monkeypatch, capsys):
    monkeypatch.setattr("assembly.gallery.faiss_pays", lambda *_: True)
    monkeypatch.setattr(lookups, "faiss_index", lambda *_: "an index")
    monkeypatch.setattr(lookup, "faiss", None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    lookup.get_ready("auto", 3)
    assert "searching 1 query exactly, which takes a while: FAISS is not installed" in capsys.readouterr().out
    assert lookup.faiss is None


# In a browser


@pytest.fixture
def address(lookup):
    server = server_of(search_page(lookup, "A network", "0" * 64), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}/"
    server.shutdown()
    thread.join()


FITS = "document.documentElement.scrollWidth <= innerWidth"


def test_the_page_in_a_browser(address, gallery, tmp_path):
    """On a phone's screen: an image is dropped, the keyboard marks, the marks are exported."""
    if not browsers.installed():
        pytest.skip(f"there is none of {', '.join(browsers.BROWSERS)}")
    query = min(gallery.rglob("*.jpg"))
    with browsers.Browser(tmp_path, width=360, height=740, phone=True) as browser:
        browser.open(address)
        assert browser.evaluate("[...document.querySelectorAll('input, select')].every(field => field.labels.length)")
        assert browser.evaluate(FITS)

        browser.drop(query, "#drop")
        browser.wait("document.querySelectorAll('#results li').length === 12")
        taken, status = (browser.evaluate(f"document.querySelector('#{x}').textContent") for x in ("taken", "status"))
        assert taken.startswith("Taken by day, as guessed from its colours") and "12 images ranked in" in status
        assert browser.evaluate("document.getElementById('file').files[0].name") == query.name
        first = browser.evaluate("document.querySelector('#results li').innerText")
        assert str(query.relative_to(gallery)) in first and "similarity 1.000" in first and "camera 1" in first
        browser.wait("[...document.querySelectorAll('#results img')].slice(0, 2).every(image => image.naturalWidth)")
        assert browser.evaluate(FITS) and browser.evaluate("!document.getElementById('query').hidden")

        for _ in range(30):  # Tab leads there
            browser.press("Tab")
            if browser.evaluate("document.activeElement.matches('#results li')"):
                break
        for key in ("ArrowRight", "r", "ArrowDown", "w", "End", "r", "u", "Home", "ArrowLeft"):
            browser.press(key)
        marked = "[...document.querySelectorAll('#results li')].map(item => item.className).join(' ').trim()"
        assert browser.evaluate(marked) == "right  wrong" or browser.evaluate(marked) == "right wrong"
        assert browser.evaluate("document.querySelectorAll('#results [aria-pressed=true]').length") == 2
        assert browser.evaluate("document.activeElement === document.querySelector('#results li')")

        browser.evaluate("document.querySelector('[data-format=csv]').focus()")
        browser.press("Enter")
        lines = [*csv.DictReader(io.StringIO(browser.downloaded("ranking.csv").read_text()))]
        assert len(lines) == 12 and sorted(line["mark"] for line in lines)[-2:] == ["right", "wrong"]
        assert lines[0]["query"] == query.name and lines[0]["image"] == str(query.relative_to(gallery))

        browser.evaluate("document.querySelector('[name=camera][value=\"4\"]').click()")
        browser.wait("document.querySelectorAll('#results li').length === 3")
        browser.evaluate("document.querySelector('[name=modality][value=ir]').click()")
        browser.wait("document.getElementById('taken').textContent === 'Taken by night.'")
        assert browser.complaints() == []

        (tmp_path / "text.jpg").write_text("no image")
        browser.choose(tmp_path / "text.jpg", "#file")
        said = browser.wait("document.querySelector('[role=alert]').textContent")
        assert said.startswith("the file is no image of a known format")
        assert browser.evaluate("document.getElementById('found').hidden") and browser.evaluate(FITS)
