"""What a search costs in time, disk and memory, and what a compressed embedding costs in mAP.

    python scripts/benchmark_search.py                         # 100,000 gallery entries of 12,288 numbers
    python scripts/benchmark_search.py --rows 5000 --numbers 768 --dims 64 128     # seconds, to see it run
    python scripts/benchmark_search.py --checkpoint runs/quickstart --dims 32 128  # mAP, by the run's own data set

The gallery is drawn: people and images of them, in directions whose spread decays, plus noise. Costs for `--target`
entries are what was measured, times target / rows. Every ratio is to exact search of the whole embedding, measured in
the same run, by turns. "With the check" is what the first search with an index of FAISS's takes, but for building it.
All files lie in a temporary folder (--folder says where) and are removed.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from assembly.embedding import embed_records
from assembly.errors import EXPECTED_ERRORS
from assembly.recipe import require_any_pair, weightings_of
from assembly.trained import load_run
from common.words import how_many
from data.dataset import open_data
from utils.arguments import count
from utils.evaluation.evaluator import evaluate_protocol, scaled
from utils.output import OutputError, require_folder
from utils.retrieval.compress import CompressionError, principal_directions, project
from utils.retrieval.index import EMBEDDINGS, FAISS, SearchIndex, SearchIndexError, open_index
from utils.retrieval.nearest import (
    RECALL,
    FaissMissing,
    checked,
    faiss_index,
    import_faiss,
    preselected,
    search_exact,
)
from utils.training.run import select_device

DIMS = (256, 512, 1024)   # numbers of the compressed embeddings
FACTORS = 1024            # directions in which people and images differ
IMAGES = 20               # of each person
LEARN_FROM = 4096         # drawn training images, of other people
BLOCK = 4096              # rows drawn at once
ROUNDS = 3                # of which the median counts


class Gallery:
    """Rows of length 1 around a centre for each person; the spread over the factors decays as 1 / √k.

    rows(n, first)   (n, D) images of the people from number `first` on
    """

    def __init__(self, numbers: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        factors = min(FACTORS, numbers)
        self.spread = torch.arange(1, factors + 1) ** -0.5
        self.spread /= self.spread.norm()
        self.basis = torch.linalg.qr(torch.randn(numbers, factors, generator=generator)).Q.T.contiguous()

    def rows(self, number: int, first: int) -> Tensor:
        generator = torch.Generator().manual_seed(first)
        people = -(-number // IMAGES)
        centre = torch.randn(people, len(self.spread), generator=generator).repeat_interleave(IMAGES, dim=0)[:number]
        own = centre + 0.7 * torch.randn(number, len(self.spread), generator=generator)
        noise = torch.randn(number, self.basis.shape[1], generator=generator)
        return F.normalize((self.spread * own) @ self.basis + noise.mul_(0.3 / noise.shape[1] ** 0.5))


def forget(path: Path) -> bool:
    """The next reader of the file gets it from the disk, not from what the system keeps in memory; False where the
    system cannot be told so.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def seconds(function: Callable) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def agreement(rows: Tensor, exact: Tensor) -> float:
    """The share of the exact answers that are among these."""
    return (rows[:, :, None] == exact[:, None]).any(dim=1).float().mean().item()


def draw(args: Namespace, folder: Path) -> tuple[dict[str, SearchIndex], dict[str, Tensor]]:
    """Indices of the drawn gallery and queries (Q, D) for them, whole and compressed, by the name of the kind."""
    gallery = Gallery(args.numbers)
    training = gallery.rows(min(LEARN_FROM, args.rows), first=10**9)  # of other people
    begun = time.perf_counter()
    widest = principal_directions(training, max(args.dims))  # its first columns are the directions of fewer numbers
    print(f"PCA learned on {how_many(len(training), 'image')}: {time.perf_counter() - begun:.0f} s")

    def rows_of(kind: str, rows: Tensor) -> Tensor:
        return F.normalize(project(rows, widest[:, : int(kind[4:])])) if kind.startswith("PCA ") else rows

    widths = {"float32": args.numbers, "float16": args.numbers} | {f"PCA {dim}": dim for dim in args.dims}
    indices: dict[str, SearchIndex] = {}
    parts = []
    for kind, width in widths.items():
        settings = {"numbers": width, "dtype": "float16" if kind == "float16" else "float32"}
        with open_index(folder / kind, settings) as indices[kind]:
            pass
    starts = range(0, args.rows, BLOCK)
    for first in starts:
        rows = gallery.rows(min(BLOCK, args.rows - first), first)
        parts.append(rows[:: max(1, len(rows) * len(starts) // args.queries)])
        for kind, index in indices.items():
            index.append([(str(first + i), (0, 0)) for i in range(len(rows))], rows_of(kind, rows).numpy())
    queries = torch.cat(parts)[: args.queries]
    queries = F.normalize(queries + 0.5 * torch.randn_like(queries) / args.numbers**0.5)  # other images of the same
    device = select_device(args.device)
    return indices, {kind: rows_of(kind, queries).to(device) for kind in indices}


def measure_costs(args: Namespace, folder: Path) -> None:
    most = min(args.numbers, args.rows, LEARN_FROM)
    if max(args.dims) > most:
        raise CompressionError(f"--dims asks for {max(args.dims)} numbers; --rows and --numbers allow {most} at most")
    indices, queries = draw(args, folder)
    current, number = np.ones(args.rows, dtype=bool), len(queries["float32"])

    def exactly(kind: str, some: slice = slice(None)) -> Tensor:
        return search_exact(queries[kind][some], indices[kind].matrix(), current, args.top)[1]

    searches = {f"exact, {kind}": partial(exactly, kind) for kind in indices}
    answers, memory, cold, checking = exactly("float32"), {}, {}, {}
    for kind, index in indices.items():  # before FAISS, which keeps its map of the file: what is mapped stays in memory
        if forget(index.folder / EMBEDDINGS):
            cold[f"exact, {kind}"] = seconds(searches[f"exact, {kind}"])

    def by_faiss(kind: str, index: Any, probes: int, some: slice = slice(None)) -> Tensor:
        matrix = indices[kind].matrix()
        return preselected(faiss, index, queries[kind][some], matrix, current, args.top, probes)[1]

    faiss: Any = None
    try:
        faiss = import_faiss()
    except FaissMissing as error:
        print(f"without FAISS: {error}")
    for kind in ("float32", f"PCA {min(args.dims)}") if faiss else ():
        name, matrix, file = f"FAISS, {kind}", indices[kind].matrix(), indices[kind].folder / FAISS
        begun = time.perf_counter()
        index = faiss_index(faiss, matrix, file.parent, lambda _: None)
        built, begun = time.perf_counter() - begun, time.perf_counter()
        check = checked(faiss, index, queries[kind], matrix, current, args.top)
        checking[name] = time.perf_counter() - begun
        print(
            f"{name}: built in {built:.0f} s, checked on {how_many(check['queries'], 'query', 'queries')} in "
            f"{checking[name]:.1f} s: {100 * check['recall']:.1f} % in {check['probes']} lists"
        )
        if check["recall"] >= RECALL:
            searches[name] = partial(by_faiss, kind, index, check["probes"])
            memory[name] = file.stat().st_size

    times: dict[str, dict[str, list[float]]] = {name: {"one": [], "all": []} for name in searches}
    for _ in range(ROUNDS):
        for name, run in searches.items():
            times[name]["one"].append(seconds(partial(run, slice(1))))
            times[name]["all"].append(seconds(run))

    print(
        f"\n{how_many(args.rows, 'gallery entry', 'gallery entries')} of {how_many(args.numbers, 'number')}, "
        f"{how_many(number, 'query', 'queries')}, {how_many(args.top, 'answer')} each; "
        f"{args.device}, {how_many(torch.get_num_threads(), 'thread')}, torch {torch.__version__}; medians of "
        f"{ROUNDS}\n"
    )
    header = [
        "search", "GB", "GB in memory", "1 query, s", f"{number} queries, s", "× exact", "with the check, s",
        "from disk, s",
        f"of the exact {args.top}, %", f"at {args.target:,}: GB", "1 query, s", f"{number} queries, s", "from disk, s",
    ]
    lines, factor, whole = [], args.target / args.rows, statistics.median(times["exact, float32"]["all"])
    for name, run in searches.items():
        size = (indices[name.split(", ")[1]].folder / EMBEDDINGS).stat().st_size / 1e9
        one, all_of_them = (statistics.median(times[name][what]) for what in ("one", "all"))
        lines.append([
            name, f"{size:.2f}", f"{memory[name] / 1e9:.2f}" if name in memory else "-", f"{one:.3f}",
            f"{all_of_them:.3f}", f"{all_of_them / whole:.3f}",
            f"{all_of_them + checking[name]:.3f}" if name in checking else "-",
            f"{cold[name]:.2f}" if name in cold else "-",
            f"{100 * agreement(run(), answers):.1f}", f"{factor * size:.1f}", f"{factor * one:.2f}",
            f"{factor * all_of_them:.1f}", f"{factor * cold[name]:.0f}" if name in cold else "-",
        ])
    print_table(header, lines)


def measure_accuracy(path: Path, overrides: list[str], dims: list[int]) -> None:
    """mAP on the run's data set, by the protocol's inner product and by the cosine that scripts/search.py ranks by."""
    model, cfg, _ = load_run(path, overrides, complete=False)
    require_any_pair(model, "a search")
    device, benchmark = select_device(cfg.DEVICE), open_data(cfg.DATA)
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    weighting = weightings_of(model, cfg)[0]
    scale = model.column_scale(weighting)
    train, test = (scaled(embed_records(model, records, cfg, device), scale)
                   for records in (benchmark.train, benchmark.test))
    identities = [record.identity for record in benchmark.test]
    protocol = benchmark.protocol(benchmark.default_protocols()[0])
    mean = train.mean(dim=0)

    def figures(features: Tensor) -> list[str]:
        mean = evaluate_protocol(features, identities, protocol, flip=cfg.TEST.FLIP, weighting=weighting)["mean"]
        return [f"{100 * mean['rank1']:.2f}", f"{100 * mean['mAP']:.2f}"]

    lines = [[f"{test.shape[1]} (whole)", *figures(test), *figures(F.normalize(test)), "-", "-"]]
    for dim in sorted(dims, reverse=True):
        short = project(test, principal_directions(train, dim))
        centred = project(test - mean, principal_directions(train - mean, dim))
        lines.append([str(dim), *figures(short), *figures(F.normalize(short)), *figures(centred)])
    print(f"{protocol.name}, weighting {weighting}, {how_many(len(train), 'training image')}; percent\n")
    print_table(["numbers", "Rank-1", "mAP", "Rank-1, cosine", "mAP, cosine", "Rank-1, centred", "mAP, centred"], lines)


def print_table(header: list[str], lines: list[list[str]]) -> None:
    for row in (header, ["---"] * len(header), *lines):
        print("| " + " | ".join(row) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=count(1), default=100_000, help="gallery entries that are searched")
    parser.add_argument("--numbers", type=count(1), default=12_288, help="of an embedding (CMFN, ResNet-50: 12,288)")
    parser.add_argument("--queries", type=count(1), default=100)
    parser.add_argument("--top", type=count(1), default=10)
    parser.add_argument("--dims", type=count(1), nargs="+", default=DIMS, help="numbers of the compressed embeddings")
    parser.add_argument("--target", type=count(1), default=1_000_000, help="gallery entries to extrapolate to")
    parser.add_argument("--folder", type=Path, help="where the temporary files go, several GB")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpoint", type=Path, help="measure the mAP of this run's embeddings instead")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the checkpoint's")
    args = parser.parse_intermixed_args()
    torch.manual_seed(0)
    if args.checkpoint:
        return measure_accuracy(args.checkpoint, args.overrides, args.dims)
    room = args.rows * (6 * args.numbers + 4 * sum(args.dims))  # float32 and float16 rows, and the compressed ones
    require_folder(args.folder or tempfile.gettempdir(), fix="choose another --folder", room=room)
    folder = Path(tempfile.mkdtemp(prefix="benchmark-search-", dir=args.folder))
    try:
        measure_costs(args, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, CompressionError, OutputError, SearchIndexError))
