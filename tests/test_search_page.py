"""The search page: what uploads may be, what is known of gallery images, what a request is told, and a real browser."""

import csv
import io
import json
import math
import re
import signal
import socket
import struct
import sys
import threading
import time
import urllib.request
import zlib
from pathlib import Path

import browser as browsers
import numpy as np
import pytest
import torch
from PIL import Image
from processes import Started
from programs import run

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

flask = pytest.importorskip("flask", reason="Flask is not installed (requirements-optional.txt)")

import serve

from assembly.gallery import Embedder
from assembly.search_page import lookup as lookups
from assembly.search_page import uploads
from assembly.search_page.app import PageError, import_flask, search_page, server_of
from assembly.search_page.details import DetailsError, camera_in, details_of, read_table, time_in
from assembly.search_page.uploads import UploadError, looks_infrared, read_upload
from data.dataset import open_benchmark
from data.pixels import read_image

TOKEN = {"X-Token": "the token"}


@pytest.fixture(scope="module")
def gallery(shared_data, tmp_path_factory):
    """A visible image of each person of the test by three cameras, a minute apart."""
    folder = tmp_path_factory.mktemp("page") / "photos"
    shown = [record for record in open_benchmark("synthetic", shared_data).test if not record.infrared]
    for minute, record in enumerate(shown):
        path = folder / f"cam{record.camera}" / f"{record.identity}_20240501-13{minute:02d}00.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(record.path).read_bytes())
    return folder


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


# Uploads


def as_bytes(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def coloured() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 6, 3), dtype=np.uint8))


def huge_png(side: int) -> bytes:
    """A few kilobytes that decode into side x side pixels."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(64) * 1000)  # they needn't be whole: nothing is to be decoded
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", uploads.FORMATS)
def test_formats_are_told_by_content(kind):
    image = read_upload(as_bytes(coloured(), kind))
    assert image.mode == "RGB" and image.size == (6, 12)


def test_an_upload_is_turned_and_its_grey_values_scaled():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_upload(as_bytes(coloured(), "JPEG", exif=exif)).size == (12, 6)
    deep = read_upload(as_bytes(Image.fromarray(np.arange(72, dtype=np.uint16).reshape(12, 6) * 300)))
    assert deep.getextrema() == ((0, 255),) * 3


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("content, message", [
    (b"", "the file is empty; choose an image"),
    (b"no image", "the file is no image of a known format (JPEG, PNG"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "the file is no image of a known format"),
    (as_bytes(coloured(), "GIF"), "the file is no image of a known format"),
    (as_bytes(coloured())[:150], "the image is cut off or damaged"),
    (as_bytes(coloured(), "JPEG")[:-40], "the image is cut off or damaged"),
    (huge_png(8000), "the image has 8000 x 8000 pixels; 50 million are allowed: make it smaller"),
    (huge_png(20000), "the image has far too many pixels: make it smaller, or cut the person out"),
])
def test_an_upload_that_is_no_image(content, message):
    with pytest.raises(UploadError, match=re.escape(message)):
        read_upload(content)


def test_a_large_upload_is_refused_before_it_is_read(client, monkeypatch):
    with pytest.raises(UploadError, match="the file has 21 MB; 21 MB are allowed"):
        read_upload(bytes(uploads.MOST_BYTES + 1))
    monkeypatch.setattr("assembly.search_page.app.read_upload", lambda content: pytest.fail("it was read"))
    assert refused(search(client, bytes(uploads.MOST_BYTES + 1)), 413) == "The file is too large; 21 MB are allowed."


def test_day_and_night_are_told_by_colours(shared_data):
    for record in open_benchmark("synthetic", shared_data).test:
        assert looks_infrared(read_image(record.path)) == record.infrared, record.path
    grey = np.random.default_rng(0).integers(0, 200, (40, 20, 1), dtype=np.uint8)
    tinted = Image.fromarray(np.concatenate([grey, grey, grey + 40], axis=2))
    assert looks_infrared(tinted) and not looks_infrared(coloured().resize((60, 120)))


# Cameras and times


@pytest.mark.parametrize("name, camera, time", [
    ("cam3/0001/0002.jpg", "3", "NaT"), ("0007_c03_s001_f1_vis.jpg", "3", "NaT"),
    ("0002_c1s1_000451_03.jpg", "1", "NaT"), ("Camera-12/a.png", "12", "NaT"), ("cam1/c2.jpg", "2", "NaT"),
    ("abc3.jpg", "", "NaT"), ("c0ffee.jpg", "", "NaT"), ("a/20240501_134510.jpg", "", "2024-05-01T13:45:10"),
    ("2024-05-01 13.45.jpg", "", "2024-05-01T13:45:00"), ("x2024-05-01T13-45-10Z.jpg", "", "2024-05-01T13:45:10"),
    ("20241301_134510.jpg", "", "NaT"), ("120240501134510.jpg", "", "NaT"),
])
def test_a_name_says_camera_and_time(name, camera, time):
    assert camera_in(name) == camera and str(time_in(name)) == time


def test_a_table_goes_before_names(tmp_path):
    (tmp_path / "a.csv").write_text(
        "\ufefftime,image,camera\n2024-05-01T13:45:10,cam1/a.jpg,hall\n,cam1/b.jpg,\n2024-05-02,c.jpg,\n"
    )
    cameras, times = details_of(["cam1/a.jpg", "cam1/b.jpg", "c.jpg", "d.jpg"], tmp_path / "a.csv")
    assert cameras.tolist() == ["hall", "1", "", ""]
    assert [str(time) for time in times] == ["2024-05-01T13:45:10", "NaT", "2024-05-02T00:00:00", "NaT"]


@pytest.mark.parametrize("content, message", [
    ("image;camera\na;1\n", "has the columns image;camera; it needs image, and camera or time or both, separated by"),
    ("", "has the columns (none); it needs image"),
    ("image,time\na.jpg,2024-05-01\nb.jpg,noon\n", "line 3: 'noon' is no time such as 2024-05-01T13:45:10"),
    (b"\xff\xfe", "cannot be read ("),
])
def test_a_table_that_is_none(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DetailsError, match=re.escape(message)):
        read_table(tmp_path / "a.csv")


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


# FAISS, and the program


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


def refused_program(*words) -> str:
    done = run("scripts/serve.py", *words, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    return done.stderr


def test_what_the_program_refuses(trained, gallery, tmp_path, monkeypatch):
    words = ["--checkpoint", trained("quickstart_base"), "--output", tmp_path / "out", "--port", "0"]
    assert "--gallery is nowhere, which is no folder" in refused_program(*words, "--gallery", "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty has no image that can be searched" in refused_program(*words, "--gallery", tmp_path / "empty")
    (tmp_path / "a.csv").write_text("name\n")
    assert "has the columns name; it needs image" in refused_program(
        *words, "--gallery", gallery, "--details", tmp_path / "a.csv")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused_program(*words[:-1], port, "--gallery", gallery)
    assert f"127.0.0.1 port {port} cannot be listened at (" in said and "choose another --port or --host" in said
    monkeypatch.setitem(sys.modules, "flask", None)
    with pytest.raises(PageError, match="the search page needs Flask: pip install -r requirements-optional.txt"):
        import_flask()


def test_the_program_serves_on_this_machine_alone_and_warns_elsewhere(trained, gallery, tmp_path, monkeypatch, capsys):
    served = []

    class Server:
        def __init__(self, host, port, app, **_):
            served.append([
                app.test_client().get("/", headers={"Host": f"{name}:{port}"}).status_code
                for name in ("localhost", "desk.example", "0.0.0.0")
            ])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def serve_forever(self):
            pass

    monkeypatch.setattr("werkzeug.serving.make_server", Server)
    words = ["scripts/serve.py", "--checkpoint", trained("quickstart_base"), "--gallery", gallery, "--port", "0",
             "--output", tmp_path]
    here = run(*words).stdout
    assert re.search(r"the page: http://127.0.0.1:\d+/ \(Ctrl-C ends it\)", here) and "warning" not in here
    elsewhere = run(*words, "--host", "0.0.0.0", "--name", "desk.example").stdout
    assert "warning: the page is served at 0.0.0.0, to everybody who reaches this machine there" in elsewhere
    assert served == [[200, 400, 400], [200, 200, 200]]


def test_it_answers_until_it_is_stopped(trained, gallery, tmp_path):
    process = Started(tmp_path / "printed", "scripts/serve.py", "--checkpoint", trained("quickstart_base"),
                      "--gallery", gallery, "--port", "0", "--output", tmp_path)
    try:
        until, address, printed = time.monotonic() + 60, None, tmp_path / "printed" / "stdout"
        while address is None and time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
            address = re.search(r"http://127.0.0.1:\d+/", printed.read_text()) if printed.exists() else None
        with urllib.request.urlopen(address[0], timeout=30) as page:
            assert b"12 images of photos, ranked by Two-stream baseline" in page.read()
        process.send_signal(signal.SIGINT)
        status, _, said = process.finished()
        assert status == 130 and said == "stopped by SIGINT\n"
    finally:
        process.kill()


def test_the_benchmark_asks_over_http(trained):
    words = ["scripts/benchmark_page.py", "--checkpoint", trained("quickstart_base"), "--queries", "2", "--rows"]
    said = run(*words, "50", "--method", "exact").stdout
    assert re.search(r"50 rows of \d+ numbers, ready after .* exact\nmodality=ir: median \d+.\d+ s, .* of 2\n", said)
    assert "the page found nothing: " in run(*words, "1", check=False).stderr  # none of the camera that it asks for


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
