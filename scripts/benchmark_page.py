"""How long the search page takes to answer: the upload, the query's embedding, and the search in a large index.

    python scripts/benchmark_page.py --checkpoint runs/quickstart
    python scripts/benchmark_page.py --checkpoint runs/quickstart --rows 1000 --queries 3      # seconds, to see it run

The index has random embeddings of the network's width, and is read from the disk as scripts/serve.py reads it. Queries
are drawn people, each another one, sent over HTTP; the times are the clock's.
"""

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np
import torch
import torch.nn.functional as F

from assembly.errors import EXPECTED_ERRORS
from assembly.gallery import open_embedder
from assembly.search_page.app import PageError, import_flask, search_page, server_of
from assembly.search_page.details import details_of
from assembly.search_page.lookup import Lookup
from common.words import how_many
from data.synthetic import draw_jpeg
from utils.arguments import count
from utils.measure import device_name
from utils.output import require_folder
from utils.retrieval.compress import CompressionError
from utils.retrieval.index import SearchIndexError, open_index
from utils.retrieval.nearest import FaissMissing

BLOCK = 4096    # rows drawn at once
CAMERAS = 6


def fill(folder: Path, settings: dict, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    with open_index(folder, settings) as index:
        for first in range(0, rows, BLOCK):
            drawn = torch.randn(min(BLOCK, rows - first), settings["numbers"], generator=generator)
            names = [f"cam{row % CAMERAS}/{row}.jpg" for row in range(first, first + len(drawn))]
            index.append([(name, (0, 0)) for name in names], F.normalize(drawn).numpy())


def asked(port: int, token: str, image: bytes, query: str) -> float:
    """Seconds of a search over HTTP."""
    begun = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", f"/search?{query}", image, {"X-Token": token})
    found = json.loads(connection.getresponse().read())
    taken = time.perf_counter() - begun
    if not found.get("results"):
        raise PageError(f"the page found nothing: {found}")
    return taken


def measure(args: Namespace, folder: Path) -> None:
    embed, cfg, settings = open_embedder(args.checkpoint, args.overrides)
    settings |= {"dtype": "float32"}
    fill(folder, settings, args.rows)
    begun = time.perf_counter()
    with open_index(folder, settings) as index:
        details = details_of([name for name, _ in index.entries], {})
        lookup = Lookup(embed, cfg, index, folder, np.ones(args.rows, dtype=bool), *details)
        lookup.get_ready(args.method, 20)
    ready = time.perf_counter() - begun
    server = server_of(search_page(lookup, "", "", token="drawn"), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    images = [draw_jpeg(0, person, 3, 0, 128, 64) for person in range(args.queries)]
    print(f"{device_name(embed.device)}, {how_many(torch.get_num_threads(), 'thread')}")
    method = "FAISS" if lookup.faiss else "exact"
    print(f"{how_many(args.rows, 'row')} of {how_many(embed.numbers, 'number')}, ready after {ready:.1f} s; {method}")
    for query in ("modality=ir", "modality=ir&camera=1"):
        times = [asked(server.port, "drawn", image, query) for image in images]
        print(f"{query}: median {statistics.median(times):.3f} s, longest {max(times):.3f} s of {len(times)}")
    server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a file of train.py's, or a run's folder")
    parser.add_argument("--rows", type=count(1), default=100_000, help="of the index")
    parser.add_argument("--queries", type=count(1), default=20)
    parser.add_argument("--method", choices=("auto", "exact", "faiss"), default="auto")
    parser.add_argument("--folder", type=Path, help="where the index lies meanwhile; default: the temporary folder")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the checkpoint's")
    args = parser.parse_intermixed_args()
    import_flask()
    if args.folder:
        require_folder(args.folder, fix="choose another --folder")
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        measure(args, Path(folder))


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, CompressionError, FaissMissing, PageError, SearchIndexError))
