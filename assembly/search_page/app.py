"""The page's server: what a browser may ask, and what it is told.

Only a request with a known Host header is answered, so that no other site's name can be made to lead here (DNS
rebinding); what computes something needs the token that stands in the page, which other sites cannot read. A gallery
image is asked for by its row in the index. Nothing is written.
"""

import csv
import hmac
import io
import json
import math
import re
import secrets
import time
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from assembly.errors import EXPECTED_ERRORS
from assembly.gallery import shown
from assembly.search_page.lookup import MODALITY, Lookup
from assembly.search_page.uploads import MOST_BYTES, UploadError, looks_infrared, read_upload
from common.words import how_many
from data.pixels import read_image
from data.records import DataError
from utils.retrieval.index import SearchIndexError

if TYPE_CHECKING:  # an optional library, which is imported when a page is served
    from flask import Flask, Response
    from werkzeug.serving import BaseWSGIServer

    Answer = tuple[dict[str, str], int]

HERE = Path(__file__).resolve().parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_RESULTS = 200
SHOWN_SIZE = 512                     # of a gallery image in the page, in pixels, at most
MARKS = ("right", "wrong", "")
COLUMNS = ("query", "modality", "rank", "score", "image", "camera", "time", "mark")  # of an export
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                               "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
                               "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
}
SENTENCES = {  # of what Flask refuses
    400: "The request was refused: open the page by the address that the program printed.",
    404: "There is nothing at this address.",
    405: "This address is asked for in another way.",
    413: f"The file is too large; {MOST_BYTES / 1e6:.0f} MB are allowed.",
}


class PageError(ValueError):
    """The page cannot be served; the message says why, and what to do."""


class Refused(ValueError):
    """A request that makes no sense; the message says why."""


def import_flask() -> ModuleType:
    try:
        import flask
    except ImportError:
        raise PageError("the search page needs Flask: pip install -r requirements-optional.txt") from None
    return flask


def search_page(
    lookup: Lookup, title: str, checkpoint: str, hosts: Sequence[str] = LOOPBACK, token: str | None = None
) -> "Flask":
    """The Flask application.

    title        of the network
    checkpoint   its SHA-256, which exports name
    hosts        of Host headers that are answered, without port; an IPv6 address without brackets
    token        a new one, unless given
    raises       PageError where Flask is missing
    """
    flask = import_flask()
    from werkzeug.exceptions import HTTPException

    app, token = flask.Flask("search_page", static_folder=None), token or secrets.token_urlsafe(24)
    answered = {host.lower() for host in hosts}
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES

    @app.before_request
    def check_sender() -> "Answer | None":
        if host_in(flask.request.headers.get("Host", "")) not in answered:
            flask.abort(400)
        given = flask.request.headers.get("X-Token", "")
        if flask.request.method == "POST" and not hmac.compare_digest(given.encode(), token.encode()):
            return refusal("The page is of an earlier start of the program: load it again.", 403)
        return None

    @app.after_request
    def add_headers(response: "Response") -> "Response":
        response.headers.update(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> "Answer":
        status = error.code or 500
        return refusal(SENTENCES.get(status, "The program failed; its terminal says how."), status)

    @app.errorhandler(Exception)
    def failed(error: Exception) -> "Answer":
        if isinstance(error, UploadError | Refused):
            return refusal(str(error), 400)
        if isinstance(error, (*EXPECTED_ERRORS, SearchIndexError)):
            return refusal(str(error), 500)
        app.logger.exception("a request failed")
        return refusal("The program failed; its terminal says how.", 500)

    def refusal(sentence: str, status: int) -> "Answer":
        return {"error": sentence}, status

    @app.get("/")
    def page() -> "Response":
        return flask.Response(page_of(lookup, title, token), mimetype="text/html")

    @app.get("/page.<any(css, js):kind>")
    def part(kind: str) -> "Response":
        return flask.send_file(HERE / f"page.{kind}", mimetype={"css": "text/css", "js": "text/javascript"}[kind])

    @app.get("/image/<int:row>")
    def image(row: int) -> "Response":
        path = lookup.path(row)
        try:
            content = jpeg_of(path) if path and lookup.unchanged(row) else None
        except DataError:  # it is gone, or was broken since
            content = None
        if content is None:
            flask.abort(404)
        return flask.Response(content, mimetype="image/jpeg", headers={"Cache-Control": "private, max-age=600"})

    @app.post("/search")
    def search() -> dict:
        begun, asked = time.perf_counter(), flask.request.args
        top = whole_number(asked.get("top", "20"))
        wanted = asked.get("modality", "guess")
        if wanted not in (*MODALITY.values(), "guess"):
            raise Refused(f"modality is {shown(wanted)!r}; it is vis, ir or guess")
        since, until = (moment(asked.get(name, ""), name) for name in ("since", "until"))
        upload = read_upload(flask.request.get_data(cache=False))
        infrared = looks_infrared(upload) if wanted == "guess" else wanted == "ir"
        found, number = lookup.search(upload, infrared, top, asked.getlist("camera"), since, until)
        return {
            "modality": MODALITY[infrared], "guessed": wanted == "guess", "images": number,
            "seconds": round(time.perf_counter() - begun, 3),
            "results": [{"row": row, "score": round(score, 5)} | described(lookup, row) for row, score in found],
        }

    @app.post("/export")
    def export() -> "Response":
        kind = flask.request.args.get("format", "")
        if kind not in ("csv", "json"):
            raise Refused(f"format is {shown(kind)!r}; it is csv or json")
        lines = exported(lookup, flask.request.get_json(force=True, silent=True))
        if kind == "csv":
            return flask.Response(table_of(lines), mimetype="text/csv")
        content = {"gallery": str(lookup.root), "network": title, "checkpoint": checkpoint, "results": lines}
        return flask.Response(json.dumps(content, indent=1) + "\n", mimetype="application/json")

    return app


def server_of(app: "Flask", host: str, port: int, fd: int | None = None) -> "BaseWSGIServer":
    """A server for one person or a few, without a line for each request: what is searched for is private.

    fd   of a socket that listens already
    """
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log_request(self, *_: object) -> None:
            pass

    return make_server(host, port, app, threaded=True, request_handler=Silent, fd=fd)


def page_of(lookup: Lookup, title: str, token: str) -> str:
    """The HTML, with what its script has to know."""
    rows = np.flatnonzero(lookup.current)
    cameras = sorted({*lookup.cameras[rows].tolist()} - {""}, key=lambda name: (len(name), name))
    times = lookup.times[rows][~np.isnat(lookup.times[rows])]
    known = {
        "token": token, "cameras": cameras, "bytes": MOST_BYTES,
        "start": secrets.token_hex(4),  # in images' addresses: a browser keeps them, and another start has other rows
        "times": [str(times.min()), str(times.max())] if len(times) else None,
    }
    summary = f"{how_many(len(rows), 'image', form=',')} of {shown(lookup.root.name)}, ranked by {title}"
    return Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        summary=escape(summary), known=json.dumps(known).replace("<", "\\u003c"),
    )


def host_in(header: str) -> str | None:
    """The name or address in a Host header, without its port (Flask's own check knows no IPv6 addresses)."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def described(lookup: Lookup, row: int) -> dict[str, str]:
    """What is known of a gallery image; "" for what isn't."""
    stamp = lookup.times[row]
    known = "" if np.isnat(stamp) else str(stamp)
    return {"name": shown(lookup.name(row)), "camera": str(lookup.cameras[row]), "time": known}


def jpeg_of(path: Path) -> bytes:
    """The image as a browser shows it: small, turned, and without what its file says beside the pixels.

    raises   DataError
    """
    image, content = read_image(str(path)), io.BytesIO()
    image.thumbnail((SHOWN_SIZE, SHOWN_SIZE))
    image.save(content, "JPEG", quality=88)
    return content.getvalue()


def whole_number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_RESULTS:
        raise Refused(f"the number of results is {shown(text)!r}; it is 1 to {MOST_RESULTS}")
    return int(text)


def moment(text: str, name: str) -> np.datetime64 | None:
    """None for no text; without seconds, `until` is the end of its minute."""
    if not text:
        return None
    try:
        found = np.datetime64(datetime.fromisoformat(text).replace(tzinfo=None), "s")
    except ValueError:
        raise Refused(f"{name} is {shown(text)!r}, which is no time such as 2024-05-01T13:45") from None
    return found + 59 if name == "until" and text.count(":") == 1 else found


def exported(lookup: Lookup, asked: Any) -> list[dict]:
    """
    asked    {"query": name, "modality": of MODALITY, "results": [[row, score, mark], ...] in their order}
    raises   Refused
    """
    try:
        query, modality = shown(str(asked["query"])), asked["modality"]
        if modality not in MODALITY.values():
            raise ValueError
        lines = []
        for rank, (row, score, mark) in enumerate(asked["results"], start=1):
            if type(row) is not int or lookup.path(row) is None or mark not in MARKS or not math.isfinite(score):
                raise ValueError
            known = described(lookup, row)
            lines.append({
                "query": query, "modality": modality, "rank": rank, "score": float(score), "image": known["name"],
                "camera": known["camera"], "time": known["time"], "mark": mark,
            })
        return lines
    except (KeyError, OverflowError, TypeError, ValueError):
        raise Refused("what is to be exported is no ranking of this gallery; search again") from None


def table_of(lines: list[dict]) -> str:
    """As CSV. What a spreadsheet would take for a formula gets an apostrophe before it."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for line in lines:
        table.writerow({
            key: f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
            for key, value in line.items()
        })
    return text.getvalue()
