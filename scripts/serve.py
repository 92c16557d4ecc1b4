"""Search a gallery in the browser: drop an image, see whom it shows, mark what is right, export the ranking.

    python scripts/serve.py --checkpoint runs/sysu_cmfn --gallery photos
    python scripts/serve.py --checkpoint runs/sysu_cmfn --gallery photos --details photos.csv --port 8080
    python scripts/serve.py --checkpoint runs/sysu_cmfn --gallery photos --output runs/search    # that search's index

The gallery is embedded once, into the same index as scripts/search.py's. The page is for this machine alone, unless
--host says otherwise; it takes uploads into memory and writes nothing. docs/search.md says more. Ctrl-C ends it.
"""

import argparse
import socket
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

from assembly.errors import EXPECTED_ERRORS
from assembly.gallery import (
    MODALITIES,
    SearchError,
    add_missing,
    index_folder,
    index_settings,
    list_images,
    open_embedder,
    shown,
)
from assembly.search_page.app import LOOPBACK, PageError, import_flask, search_page, server_of
from assembly.search_page.details import DetailsError, details_of, read_table
from assembly.search_page.lookup import Lookup
from assembly.titles import method_title
from common.words import how_many
from data.formats import not_read
from utils.output import require_folder
from utils.retrieval.compress import CompressionError
from utils.retrieval.index import SearchIndexError, open_index
from utils.retrieval.nearest import FaissMissing

USUAL_RESULTS = 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a file of train.py's, or a run's folder")
    parser.add_argument("--gallery", type=Path, required=True, help="the folder to search, with the folders in it")
    parser.add_argument("--gallery-modality", choices=MODALITIES, default="vis")
    parser.add_argument("--details", type=Path, help="a CSV file: image, camera, time; default: what file names say")
    parser.add_argument("--output", type=Path, help="folder of the index, as scripts/search.py's; default: search, "
                        "beside the checkpoint")
    parser.add_argument("--index", type=Path, help="the index's folder; default: a folder for each gallery in --output")
    parser.add_argument("--rebuild", action="store_true", help="throw the index away and embed everything anew")
    parser.add_argument("--method", choices=("auto", "exact", "faiss"), default="auto")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at; default: this machine alone")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--name", action="append", default=[], metavar="HOST",
                        help="another name or address by which browsers reach this machine; may be repeated")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the checkpoint's")
    return parser.parse_intermixed_args()


def listening(host: str, port: int) -> socket.socket:
    """
    raises   PageError where the address or the port cannot be had
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PageError(
            f"{host} port {port} cannot be listened at ({reason}); choose another --port or --host"
        ) from None


def open_lookup(args: Namespace) -> tuple[Lookup, str, str]:
    """The gallery, ready to be searched, the network's title, and its checkpoint's SHA-256."""
    if not args.gallery.is_dir():
        raise SearchError(f"--gallery is {args.gallery}, which is no folder")
    listed = read_table(args.details) if args.details else {}  # what is wrong with it is said before any work
    output = args.output or (args.checkpoint if args.checkpoint.is_dir() else args.checkpoint.parent) / "search"
    folder = args.index or index_folder(output, args.gallery, args.gallery_modality)
    require_folder(folder, fix="choose another --output or --index")
    embed, cfg, settings = open_embedder(args.checkpoint, args.overrides)
    others: list[str] = []
    files = list_images(args.gallery, others)
    with open_index(folder, index_settings(settings, args.gallery, args.gallery_modality), args.rebuild) as index:
        left_out = add_missing(index, args.gallery, files, args.gallery_modality == "ir", embed, cfg)
        current = index.rows(files)
        if not current.any():
            why = [*left_out.values(), *filter(None, [not_read(others)])]
            raise SearchError("\n".join([f"{args.gallery} has no image that can be searched", *why]))
        cameras, times = details_of([name for name, _ in index.entries], listed)
        lookup = Lookup(embed, cfg, index, args.gallery, current, cameras, times)
        lookup.get_ready(args.method, USUAL_RESULTS)
    absent = sorted({*listed} - {Path(name).as_posix() for name in files})
    if absent:
        print(
            f"note: {args.details} names {how_many(len(absent), 'image')} that the gallery lacks, such as "
            f"{shown(absent[0])}"
        )
    if others:
        print(f"note: in {shown(args.gallery)}, {shown(not_read(others))}")
    if left_out:
        said = f"warning: {how_many(len(left_out), 'image was', 'images were')} left out:"
        print(said, *map(shown, left_out.values()), sep="\n  ")
    return lookup, method_title(cfg.MODEL), settings["checkpoint"]


def main() -> None:
    args = arguments()
    import_flask()
    with listening(args.host, args.port) as place:
        lookup, title, checkpoint = open_lookup(args)
        host, port = place.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        app = search_page(lookup, title, checkpoint, [*LOOPBACK, host, *args.name])
        if host not in LOOPBACK:
            print(
                f"warning: the page is served at {address}, to everybody who reaches this machine there, without a "
                "password and without encryption; leave --host out to keep it on this machine"
            )
        with server_of(app, host, port, place.fileno()) as server:
            print(f"the page: http://{address}:{port}/ (Ctrl-C ends it)", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    fail_clearly(main, (
        *EXPECTED_ERRORS, CompressionError, DetailsError, FaissMissing, PageError, SearchError, SearchIndexError,
    ))
