"""A folder of one's own images as a gallery: embedded once, into an index, and searched (docs/search.md)."""

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from yacs.config import CfgNode

from assembly.embedding import learned_directions
from assembly.recipe import require_any_pair, weightings_of
from assembly.trained import load_run, open_tested
from common.words import how_many
from data.formats import endings, is_systems
from data.pixels import eval_transform, open_image
from data.records import DataError
from models.network import Network
from utils.evaluation.evaluator import rows_not_finite
from utils.evaluation.metrics import full_float32
from utils.retrieval.compress import project
from utils.retrieval.index import SearchIndex, Stamp
from utils.retrieval.nearest import FaissMissing, faiss_pays, faiss_search, import_faiss, search_exact
from utils.stop import StopRequest
from utils.training.loaders import loader_advice, start_worker
from utils.training.run import memory_advice, select_device

MODALITIES = ("vis", "ir")
SCORES = ("cosine", "inner")  # of embeddings; the inner product is that of test.py
CSV, SHEET = "ranking.csv", "ranking.jpg"  # what a search writes
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
    autocast     the network's dtype; None is float32
    """

    def __init__(
        self, model: Network, scale: Tensor, directions: Tensor | None, flip: bool, device: torch.device,
        score: str = "cosine", autocast: torch.dtype | None = None,
    ):
        self.model, self.flip, self.device, self.score, self.autocast = model, flip, device, score, autocast
        columns = scale.nonzero().flatten()  # here, once: a device would be waited for
        self.columns, self.scale = columns.to(device), scale[columns].to(device)
        self.directions = None if directions is None else directions.to(device)
        self.numbers = len(columns) if directions is None else directions.shape[1]

    @torch.inference_mode()
    def __call__(self, images: Tensor, infrared: bool) -> Tensor:
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        in_autocast = torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)
        with full_float32(self.device), in_autocast:  # without TF32, as in a test
            embeddings = self.model.embed(images, infrared, self.flip)
        embeddings = embeddings.float()[:, self.columns] * self.scale
        if self.directions is not None:
            embeddings = project(embeddings, self.directions)
        return F.normalize(embeddings) if self.score == "cosine" else embeddings


def open_embedder(
    path: Path, overrides: list[str], score: str = "cosine", autocast: torch.dtype | None = None
) -> tuple[Embedder, CfgNode, dict]:
    """The checkpoint's network with its reported weighting, the configuration, and what the embeddings depend on."""
    model, cfg, checkpoint = load_run(path, overrides, complete=False)
    require_any_pair(model, "a search")
    device, weighting, directions = select_device(cfg.DEVICE), weightings_of(model, cfg)[0], None
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    if cfg.EMBEDDING.DIM:
        def train_records() -> list:
            return open_tested(cfg, checkpoint).train

        directions = learned_directions(model, [weighting], train_records, cfg, checkpoint, device)[weighting]
    settings = {
        "checkpoint": checkpoint["sha256"], "model": cfg.MODEL.dump(), "weighting": weighting, "flip": cfg.TEST.FLIP,
        "height": cfg.DATA.HEIGHT, "width": cfg.DATA.WIDTH,
        "compression": "none" if directions is None else hashlib.sha256(directions.cpu().numpy().data).hexdigest(),
    }
    if cfg.DATA.RESIZE != "lanczos":
        settings["resize"] = cfg.DATA.RESIZE
    if score != "cosine":
        settings["score"] = score
    embed = Embedder(model, model.column_scale(weighting), directions, cfg.TEST.FLIP, device, score, autocast)
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
    paths: list[Path], infrared: bool, embed: Embedder, cfg: CfgNode, what: str
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
                print(f"{what}: {done} of {how_many(len(paths), 'image')}", flush=True)
            if images is None:
                yield [], torch.empty(0, embed.numbers), broken
                continue
            embeddings = embed(images, infrared)
            bad = {*rows_not_finite(embeddings)}
            kept = [row for row in range(len(numbers)) if row not in bad]
            broken |= {numbers[row]: f"the embedding of {paths[numbers[row]]} is not finite" for row in bad}
            yield [numbers[row] for row in kept], embeddings[kept], broken


def list_images(root: Path, others: list[str] | None = None) -> dict[str, Stamp]:
    """Names of the images in a folder and the folders in it, relative to it, in a fixed order.

    Hidden files and folders are left out, and links to folders; a link to a file is that file. A file that is reached
    twice comes once, by its first name. The sheet of a search, which lies beside its table, is left out.

    others   gets the names of the files that are not images
    """
    files, seen, read = {}, set(), endings()
    links: list[str] = []
    others = [] if others is None else others
    for folder, folders, names in os.walk(root, onerror=lambda error: print(f"warning: a folder is left out: {error}")):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links += [os.path.join(folder, name) for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted(names):
            if is_systems(name) or name in (CSV, SHEET) and CSV in names:
                continue
            path = Path(folder, name)
            if not name.lower().endswith(read):
                others.append(str(path.relative_to(root)))
                continue
            try:
                state = os.stat(path)
            except OSError:  # a link to nowhere, for instance
                files[str(path.relative_to(root))] = (-1, -1)
                continue
            if not stat.S_ISREG(state.st_mode):  # a pipe, for instance, from which nothing may ever come
                others.append(str(path.relative_to(root)))
            elif (state.st_dev, state.st_ino) not in seen:
                seen.add((state.st_dev, state.st_ino))
                files[str(path.relative_to(root))] = stamp_of(state)
    if links:
        said = how_many(len(links), "link to a folder is", "links to folders are")
        print(f"note: {said} not followed, such as {shown(links[0])}: to search there, too, move or copy the images")
    return files


def stamp_of(state: os.stat_result) -> Stamp:
    return state.st_size, state.st_mtime_ns


def add_missing(
    index: SearchIndex, root: Path, files: dict[str, Stamp], infrared: bool, embed: Embedder, cfg: CfgNode
) -> dict[str, str]:
    """Embed what the index lacks, a batch at a time; returns {name: why} of images that had to be left out.

    raises   SearchError where a signal asked to stop; what is embedded stays
    """
    missing = [name for name, stamp in files.items() if not index.holds(name, stamp)]
    print(
        f"gallery {shown(root)}: {how_many(len(files), 'image')}, {len(files) - len(missing)} of them in the index "
        f"{shown(index.folder)}", flush=True,
    )
    index.check_room(len(missing))
    left_out: dict[str, str] = {}
    with StopRequest() as stop:
        for numbers, embeddings, broken in embedded([root / name for name in missing], infrared, embed, cfg, "gallery"):
            names = [missing[number] for number in numbers]
            index.append([(name, files[name]) for name in names], embeddings.cpu().numpy())
            left_out |= {missing[number]: why for number, why in broken.items()}
            if stop.by:
                raise SearchError(
                    f"stopped by {stop.by} with {int(index.rows(files).sum())} of {how_many(len(files), 'image')} in "
                    f"the index {index.folder}; run the same command again to go on"
                )
    return left_out


def embed_queries(paths: list[Path], infrared: bool, embed: Embedder, cfg: CfgNode) -> tuple[list[Path], Tensor, dict]:
    """Those that can be read, their embeddings (Q, D) on the device, and {path: why} of the others.

    raises   SearchError where none can
    """
    kept, parts = [], []
    left_out: dict[Path, str] = {}
    for numbers, embeddings, broken in embedded(paths, infrared, embed, cfg, "queries"):
        kept += [paths[number] for number in numbers]
        parts.append(embeddings.to(embed.device))
        left_out |= {paths[number]: why for number, why in broken.items()}
    if not kept:
        raise SearchError("; ".join(left_out.values()))
    return kept, torch.cat(parts), left_out


def index_folder(output: Path, gallery: Path, modality: str) -> Path:
    """Where a gallery's index lies unless --index says otherwise; galleries of the same name have one each."""
    place = hashlib.sha256(os.fsencode(gallery.resolve())).hexdigest()[:8]
    return output / "index" / f"{gallery.resolve().name}-{place}-{modality}"


def index_settings(settings: dict, gallery: Path, modality: str, dtype: str = "float32") -> dict:
    """What an index of a gallery remembers (`open_index`).

    settings   of `open_embedder`
    """
    return settings | {"gallery": str(gallery.resolve()), "modality": modality, "dtype": dtype}


def chosen_method(
    method: str, queries: int, matrix: np.ndarray, top: int, device: torch.device, folder: Path, modality: str = ""
) -> str:
    """exact or faiss; of "auto" the one that pays, and FAISS only where it is installed.

    folder     of the index
    modality   of the queries
    """
    if method != "auto":
        return method
    if faiss_pays(queries, matrix, top, device, folder, modality):
        try:
            import_faiss()
            return "faiss"
        except FaissMissing as error:
            print(f"searching {how_many(queries, 'query', 'queries')} exactly, which takes a while: {error}")
    return "exact"


def searcher(
    queries: Tensor, index: SearchIndex, current: np.ndarray, top: int, method: str, modality: str
) -> Callable[[], tuple[Tensor, Tensor]]:
    """What gives scores and rows of the best (utils/retrieval/nearest.py), by the method asked for, or with "auto" by
    the one that pays. FAISS is made ready for it, so this belongs inside `open_index`.
    """
    matrix = index.matrix()
    if chosen_method(method, len(queries), matrix, top, queries.device, index.folder, modality) == "faiss":
        return faiss_search(queries, matrix, current, top, index.folder, kind=modality)
    return partial(search_exact, queries, matrix, current, top)


def shown(name: str | Path) -> str:
    """A file's name as one line of text, also where it has control characters or is none in UTF-8."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(name))
