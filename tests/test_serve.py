"""scripts/serve.py and scripts/benchmark_page.py: what they refuse, where the page is served, and how that ends."""

import re
import signal
import socket
import sys
import time
import urllib.request

import pytest
from processes import Started
from programs import run

from assembly.search_page.app import PageError, import_flask

pytest.importorskip("flask", reason="Flask is not installed (requirements-optional.txt)")


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
