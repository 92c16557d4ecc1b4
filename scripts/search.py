"""Search images of one's own: which images of a folder show the person of a query.

    python scripts/search.py --checkpoint runs/sysu_cmfn --gallery photos --query night.jpg --output runs/search
    python scripts/search.py --checkpoint runs/sysu_cmfn --gallery photos --query nights/ --output runs/search --top 20
    python scripts/search.py --checkpoint runs/sysu_cmfn --gallery photos --query nights/ --output runs/b \\
        EMBEDDING.DIM 256

The gallery is embedded once, into an index; later calls embed what is new or changed. Ranked names and scores are
printed and written to ranking.csv and, as images, to ranking.jpg. docs/search.md explains scores, sizes and methods.
"""

import argparse
import csv
import hashlib
import io
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import StopRequest, fail_clearly, stop_in_one_line  # noqa: E402

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from yacs.config import CfgNode

from data.dataset import open_benchmark  # noqa: E402
from data.records import PICTURES, DataError  # noqa: E402
from data.pixels import eval_transform, open_image  # noqa: E402
from assembly.embedding import learned_directions  # noqa: E402
from assembly.errors import EXPECTED_ERRORS  # noqa: E402
from assembly.recipe import require_any_pair, weightings_of  # noqa: E402
from assembly.trained import load_run  # noqa: E402
from utils.arguments import count  # noqa: E402
from utils.retrieval.compress import CompressionError, project  # noqa: E402
from utils.evaluation.evaluator import rows_not_finite  # noqa: E402
from utils.evaluation.metrics import full_float32  # noqa: E402
from utils.retrieval.index import SearchIndex, SearchIndexError, Stamp, open_index  # noqa: E402
from utils.training.loaders import loader_advice, start_worker  # noqa: E402
from utils.retrieval.nearest import FaissMissing, faiss_pays, faiss_search, import_faiss, search_exact  # noqa: E402
from utils.output import OutputError, require_files, require_folder, write_or_keep  # noqa: E402
from utils.training.run import memory_advice, select_device  # noqa: E402
from utils.reporting.sheets import SheetError, ranking_sheet, save  # noqa: E402

ENDINGS = (*PICTURES, ".webp", ".tif", ".tiff")
MODALITIES = ("vis", "ir")
SCORES = ("cosine", "inner")  # of embeddings; the inner product is that of test.py
CSV, SHEET = "ranking.csv", "ranking.jpg"  # what a search writes
SHEET_QUERIES, SHEET_RESULTS, SHEET_HEIGHT = 20, 20, 160  # rows and columns at most; of an image, in pixels
PROGRESS = 60  # seconds between lines that tell it where there is no terminal
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # controls, line ends, bytes not in UTF-8


class SearchError(ValueError):
    """There is nothing to search, an image was moved meanwhile, or the search was stopped."""


class Embedder:
    """Images (B, 3, H, W) of one modality -> (B, D) float32 rows, whose inner product is the score.

    model        in evaluation mode on the device
    scale        of the embedding's columns; those of 0 are left out
    directions   what compresses the embedding, or None
    score        of SCORES
    """

    def __init__(
        self, model: nn.Module, scale: Tensor, directions: Tensor | None, flip: bool, device: torch.device,
        score: str = "cosine",
    ):
        self.model, self.flip, self.device, self.score = model, flip, device, score
        columns = scale.nonzero().flatten()  # here, once: a device would be waited for
        self.columns, self.scale = columns.to(device), scale[columns].to(device)
        self.directions = None if directions is None else directions.to(device)
        self.numbers = len(columns) if directions is None else directions.shape[1]

    @torch.inference_mode()
    def __call__(self, images: Tensor, infrared: bool) -> Tensor:
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        with full_float32(self.device):  # as test.py does
            embeddings = self.model.embed(images, infrared, self.flip).float()[:, self.columns] * self.scale
        if self.directions is not None:
            embeddings = project(embeddings, self.directions)
        return F.normalize(embeddings) if self.score == "cosine" else embeddings


def open_embedder(path: Path, overrides: list[str], score: str = "cosine") -> tuple[Embedder, CfgNode, dict]:
    """The checkpoint's network with its reported weighting, the configuration, and what the embeddings depend on."""
    model, cfg, checkpoint = load_run(path, overrides, complete=False)
    require_any_pair(model, "a search")
    device, weighting, directions = select_device(cfg.DEVICE), weightings_of(model, cfg)[0], None
    model = model.to(device, memory_format=torch.channels_last).eval()
    if cfg.EMBEDDING.DIM:
        def train_records() -> list:
            return open_benchmark(cfg.DATA.NAME, cfg.DATA.ROOT, split=cfg.DATA.SPLIT).train

        directions = learned_directions(model, [weighting], train_records, cfg, checkpoint, device)[weighting]
    settings = {
        "checkpoint": checkpoint["sha256"], "model": cfg.MODEL.dump(), "weighting": weighting, "flip": cfg.TEST.FLIP,
        "height": cfg.DATA.HEIGHT, "width": cfg.DATA.WIDTH,
        "compression": "none" if directions is None else hashlib.sha256(directions.cpu().numpy()).hexdigest(),
    }
    if cfg.DATA.RESIZE != "lanczos":
        settings["resize"] = cfg.DATA.RESIZE
    if score != "cosine":
        settings["score"] = score
    embed = Embedder(model, model.column_scale(weighting), directions, cfg.TEST.FLIP, device, score)
    return embed, cfg, settings | {"numbers": embed.numbers}


class Images(Dataset):
    """(number, image (3, H, W), ""), or for an image that cannot be read (number, None, why)."""

    def __init__(self, paths: list[Path], height: int, width: int, resize: str):
        self.paths, self.size = paths, (height, width, resize)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[int, Tensor | None, str]:
        try:
            return i, eval_transform(open_image(str(self.paths[i]), *self.size)), ""
        except DataError as error:
            return i, None, reason(error)


def reason(error: DataError) -> str:
    return str(error).rsplit(";", 1)[0]  # what follows is advice about data sets


def collate(items: list) -> tuple[list[int], Tensor | None, dict[int, str]]:
    """The numbers and images of what could be read, and for the rest why not."""
    good = [(i, image) for i, image, _ in items if image is not None]
    images = torch.stack([image for _, image in good]) if good else None
    return [i for i, _ in good], images, {i: why for i, image, why in items if image is None}


def embedded(
    paths: list[Path], infrared: bool, embed: Embedder, cfg, what: str
) -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
    """Batches of (numbers of paths, their embeddings (B, D), {number: why} of those left out), telling its progress.
    """
    images = Images(paths, cfg.DATA.HEIGHT, cfg.DATA.WIDTH, cfg.DATA.RESIZE)
    loader = DataLoader(
        images, cfg.TEST.BATCH, num_workers=cfg.DATA.WORKERS, collate_fn=collate,
        pin_memory=embed.device.type == "cuda", worker_init_fn=start_worker,
    )
    done, told = 0, time.monotonic()
    with tqdm(desc=what, total=len(paths), unit="image", disable=None) as bar, \
            memory_advice(f"Lower TEST.BATCH, which is {cfg.TEST.BATCH}"), loader_advice(cfg.DATA.WORKERS):
        for numbers, images, broken in loader:
            bar.update(len(numbers) + len(broken))
            done += len(numbers) + len(broken)
            if bar.disable and time.monotonic() - told >= PROGRESS:  # no terminal: a line in the log
                told = time.monotonic()
                print(f"{what}: {done} of {len(paths)} images", flush=True)
            if images is None:
                yield [], torch.empty(0, embed.numbers), broken
                continue
            embeddings = embed(images, infrared)
            bad = {*rows_not_finite(embeddings)}
            kept = [row for row in range(len(numbers)) if row not in bad]
            broken |= {numbers[row]: f"the embedding of {paths[numbers[row]]} is not finite" for row in bad}
            yield [numbers[row] for row in kept], embeddings[kept], broken


def list_images(root: Path) -> dict[str, Stamp]:
    """Names of the images in a folder and the folders in it, relative to it, in a fixed order.

    Hidden files and folders are left out, and links to folders; a link to a file is that file. A file that is reached
    twice comes once, by its first name. The sheet of a search, which lies beside its table, is left out.
    """
    files, seen = {}, set()
    for folder, folders, names in os.walk(root, onerror=lambda error: print(f"warning: a folder is left out: {error}")):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or not name.lower().endswith(ENDINGS) or name == SHEET and CSV in names:
                continue
            path = Path(folder, name)
            try:
                state = os.stat(path)
            except OSError:  # a link to nowhere, for instance
                files[str(path.relative_to(root))] = (-1, -1)
                continue
            if stat.S_ISREG(state.st_mode) and (state.st_dev, state.st_ino) not in seen:
                seen.add((state.st_dev, state.st_ino))
                files[str(path.relative_to(root))] = (state.st_size, state.st_mtime_ns)
    return files


def add_missing(
    index: SearchIndex, root: Path, files: dict[str, Stamp], infrared: bool, embed: Embedder, cfg
) -> dict[str, str]:
    """Embed what the index lacks, a batch at a time; returns {name: why} of images that had to be left out.

    raises   SearchError where a signal asked to stop; what is embedded stays
    """
    missing = [name for name, stamp in files.items() if not index.holds(name, stamp)]
    print(
        f"gallery {shown(root)}: {len(files)} images, {len(files) - len(missing)} of them in the index "
        f"{shown(index.folder)}", flush=True,
    )
    index.check_room(len(missing))
    left_out = {}
    with StopRequest() as stop:
        for numbers, embeddings, broken in embedded([root / name for name in missing], infrared, embed, cfg, "gallery"):
            names = [missing[number] for number in numbers]
            index.append([(name, files[name]) for name in names], embeddings.cpu().numpy())
            left_out |= {missing[number]: why for number, why in broken.items()}
            if stop.by:
                raise SearchError(
                    f"stopped by {stop.by} with {int(index.rows(files).sum())} of {len(files)} images in the index "
                    f"{index.folder}; run the same command again to go on"
                )
    return left_out


def embed_queries(paths: list[Path], infrared: bool, embed: Embedder, cfg) -> tuple[list[Path], Tensor, dict]:
    """Those that can be read, their embeddings (Q, D) on the device, and {path: why} of the others.

    raises   SearchError where none can
    """
    kept, parts, left_out = [], [], {}
    for numbers, embeddings, broken in embedded(paths, infrared, embed, cfg, "queries"):
        kept += [paths[number] for number in numbers]
        parts.append(embeddings.to(embed.device))
        left_out |= {paths[number]: why for number, why in broken.items()}
    if not kept:
        raise SearchError("; ".join(left_out.values()) or "there is no query")
    return kept, torch.cat(parts), left_out


def query_paths(query: Path) -> list[Path]:
    if query.is_dir():
        return [query / name for name in list_images(query)]
    if not query.is_file():
        raise SearchError(f"--query is {query}, which is neither an image nor a folder")
    return [query]


def index_folder(output: Path, gallery: Path, modality: str) -> Path:
    """Where a gallery's index lies unless --index says otherwise; galleries of the same name have one each."""
    place = hashlib.sha256(os.fsencode(gallery.resolve())).hexdigest()[:8]
    return output / "index" / f"{gallery.resolve().name}-{place}-{modality}"


def searcher(
    queries: Tensor, index: SearchIndex, current: np.ndarray, top: int, method: str, modality: str
) -> Callable[[], tuple[Tensor, Tensor]]:
    """What gives scores and rows of the best (utils/retrieval/nearest.py), by the method asked for, or with "auto" by
    the one that pays. FAISS is made ready for it, so this belongs inside `open_index`.
    """
    matrix = index.matrix()
    if method == "auto":
        method = "exact"
        if faiss_pays(len(queries), matrix, top, queries.device, index.folder, modality):
            try:
                import_faiss()
                method = "faiss"
            except FaissMissing as error:
                print(f"searching {len(queries)} queries exactly, which takes a while: {error}")
    if method == "faiss":
        return faiss_search(queries, matrix, current, top, index.folder, kind=modality)
    return partial(search_exact, queries, matrix, current, top)


def write_ranking(path: Path, ranking: list[tuple[Path, list[tuple[float, Path]]]]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["query", "rank", "score", "image"])
    for query, results in ranking:
        table.writerows(
            [shown(query), rank, f"{score:.5f}", shown(image)] for rank, (score, image) in enumerate(results, start=1)
        )
    write_or_keep({path: text.getvalue()})


def draw_ranking(
    ranking: list[tuple[Path, list[tuple[float, Path]]]], gallery: Path, height: int, width: int
) -> Image.Image:
    """A sheet of the first queries; height and width are the network's, of which the images get the shape.

    raises   SearchError for an image that is gone
    """
    height, width = SHEET_HEIGHT, max(1, round(SHEET_HEIGHT * width / height))

    def opened(path: Path) -> Image.Image:
        try:
            return Image.fromarray(open_image(str(path), height, width))
        except DataError as error:
            raise SearchError(f"{reason(error)}; was it moved since it was searched?") from None

    rows = [
        (opened(query), shortened(query.name), [
            (opened(image), f"{score:.3f}\n{shortened(image.relative_to(gallery))}", None)
            for score, image in results[:SHEET_RESULTS]
        ])
        for query, results in ranking[:SHEET_QUERIES]
    ]
    return ranking_sheet(rows, height=height, width=width)


def shortened(name: str | Path, most: int = 16) -> str:
    name = shown(name)
    return name if len(name) <= most else "..." + name[3 - most:]


def shown(name: str | Path) -> str:
    """A file's name as one line of text, also where it has control characters or is none in UTF-8."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a file of train.py's, or a run's folder")
    parser.add_argument("--gallery", type=Path, required=True, help="the folder to search, with the folders in it")
    parser.add_argument("--gallery-modality", choices=MODALITIES, default="vis")
    parser.add_argument("--query", type=Path, required=True, help="an image, or a folder of images")
    parser.add_argument("--query-modality", choices=MODALITIES, default="ir")
    parser.add_argument("--top", type=count(1), default=10, help="how many images to name for each query")
    parser.add_argument("--output", type=Path, required=True, help="folder of ranking.csv, ranking.jpg and the index")
    parser.add_argument("--index", type=Path, help="the index's folder; default: a folder for each gallery in --output")
    parser.add_argument("--rebuild", action="store_true", help="throw the index away and embed everything anew")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the index's numbers")
    parser.add_argument("--score", choices=SCORES, default="cosine", help="inner: the inner product, as test.py ranks")
    parser.add_argument("--method", choices=("auto", "exact", "faiss"), default="auto")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the checkpoint's")
    args = parser.parse_intermixed_args()
    if not args.gallery.is_dir():
        raise SearchError(f"--gallery is {args.gallery}, which is no folder")
    queries = query_paths(args.query)
    table, sheet = args.output / CSV, args.output / SHEET
    folder = args.index or index_folder(args.output, args.gallery, args.gallery_modality)
    require_files(table, sheet, fix="choose another --output")
    require_folder(folder, fix="choose another --index")
    embed, cfg, settings = open_embedder(args.checkpoint, args.overrides, args.score)
    queries, query_embeddings, left_out = embed_queries(queries, args.query_modality == "ir", embed, cfg)

    settings |= {"gallery": str(args.gallery.resolve()), "modality": args.gallery_modality, "dtype": args.dtype}
    files = list_images(args.gallery)
    with open_index(folder, settings, args.rebuild) as index:
        left_out |= add_missing(index, args.gallery, files, args.gallery_modality == "ir", embed, cfg)
        current = index.rows(files)
        if not current.any():
            raise SearchError("\n".join([f"{args.gallery} has no image that can be searched", *left_out.values()]))
        search = searcher(query_embeddings, index, current, args.top, args.method, args.query_modality)

    scores, rows = search()
    names = [[index.entries[row][0] for row in line] for line in rows.tolist()]
    ranking = [
        (query, [(score, args.gallery / name) for score, name in zip(*result)])
        for query, *result in zip(queries, scores.tolist(), names)
    ]
    write_ranking(table, ranking)
    save(draw_ranking(ranking, args.gallery, cfg.DATA.HEIGHT, cfg.DATA.WIDTH), sheet)
    for query, results in ranking:
        print(f"\n{shown(query)}")
        for rank, (score, image) in enumerate(results, start=1):
            print(f"{rank:4d}  {score:.4f}  {shown(image.relative_to(args.gallery))}")
    print(f"\n{len(queries)} queries, {int(current.sum())} images: {shown(table)}, {shown(sheet)}")
    if left_out:
        print(f"warning: {len(left_out)} images were left out:", *map(shown, left_out.values()), sep="\n  ")


if __name__ == "__main__":
    fail_clearly(main, (
        *EXPECTED_ERRORS, CompressionError, FaissMissing, OutputError, SearchError, SearchIndexError, SheetError,
    ))
