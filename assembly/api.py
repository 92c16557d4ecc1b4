"""A trained network for one's own program: images -> embeddings -> rankings (docs/own_program.md).

Programs import it as `vireid`, from the repository's root: a name that is no one else's.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from yacs.config import CfgNode

from assembly.errors import EXPECTED_ERRORS
from assembly.gallery import Embedder, open_embedder
from assembly.titles import method_title
from assembly.update import AUTOCAST
from common.words import how_many
from configs.load import ConfigError
from data.pixels import eval_transform, in_rgb, open_image, resized
from data.records import DataError
from models.authors_checkpoint import AuthorsCheckpointError
from utils.evaluation.aim import aim_similarity
from utils.evaluation.evaluator import EvaluationError, rows_not_finite
from utils.evaluation.metrics import inner_products, ranking_keys
from utils.evaluation.rerank import reranked_distance
from utils.retrieval.compress import CompressionError
from utils.retrieval.nearest import scores_and_rows
from utils.training.run import memory_advice, select_device

ERRORS = (*EXPECTED_ERRORS, AuthorsCheckpointError, CompressionError)  # what is raised where something is wrong
ROWS = ("unit", "raw")
RERANKINGS = ("none", "k_reciprocal", "aim")
BLOCK_BYTES = 256 << 20  # similarities and their keys that are held at once

OneImage = str | os.PathLike | Image.Image | np.ndarray


class Net:
    """A network with all that an embedding depends on; `load` gives one.

    cfg          the configuration, a yacs CfgNode
    height       of an image as the network takes it, in pixels; `width` likewise
    weighting    of pooled and neck features
    weightings   all that the network has, the one that is reported first
    numbers      of an embedding, D
    device       where it is computed
    settings     plain values that say which embeddings can be compared: the checkpoint's SHA-256 and others
    """

    def __init__(self, embed: Embedder, cfg: CfgNode, settings: dict, batch: int, readers: int):
        self.embedder, self.cfg, self.settings, self.batch, self.readers = embed, cfg, settings, batch, readers
        self.height, self.width, self.weighting = cfg.DATA.HEIGHT, cfg.DATA.WIDTH, settings["weighting"]
        self.weightings, self.numbers, self.device = [*embed.model.weightings], embed.numbers, embed.device

    def __repr__(self) -> str:
        return (
            f"<{method_title(self.cfg.MODEL)}: images of {self.height}x{self.width}, embeddings of "
            f"{how_many(self.numbers, 'number')} ({self.weighting}), on {self.device}>"
        )

    def embed(
        self, images: OneImage | Sequence[OneImage], *, infrared: bool | Sequence[bool], rows: str = "unit"
    ) -> np.ndarray:
        """
        images     one or several, in any mixture: a file's path, a Pillow image, an (H, W, 3) uint8 array in RGB; or
                   a batch of them as one (N, H, W, 3) array. Of any size; a file or a Pillow image is turned as its
                   EXIF tag says
        infrared   of all images, or of each
        rows       "unit": of length 1, the inner product of two is the cosine, the score of scripts/search.py; "raw":
                   as they are, the inner product is the similarity of test.py
        returns    (N, D) float32; N is 1 for one image
        raises     DataError for what is no image, ConfigError, EvaluationError for an embedding that is not finite,
                   OutOfMemory
        """
        if rows not in ROWS:
            raise ConfigError(f"rows is {rows!r}; it is one of {', '.join(ROWS)}")
        each = listed(images)
        of_infrared = modality_of_each(infrared, len(each))
        result = np.empty((len(each), self.numbers), np.float32)
        for kind in (False, True):
            for numbers, batch in self.batches(each, np.flatnonzero(of_infrared == kind)):
                with memory_advice(f"Lower batch, which is {self.batch}"):
                    embeddings = self.embedder(batch, kind)
                    if rows == "unit":
                        embeddings = F.normalize(embeddings)
                bad = rows_not_finite(embeddings)
                if bad:
                    raise EvaluationError(
                        f"the embedding of {name_of(each, numbers[bad[0]])} is not finite (nan or infinite): the "
                        "network's maps overflow; take another checkpoint, or the precision float32"
                    )
                result[numbers] = embeddings.cpu().numpy()
        return result

    def batches(self, images: Sequence[OneImage], numbers: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """(numbers (B,) of images, the images (B, 3, H, W)); threads read the next batch while one is embedded."""
        parts = [numbers[start:start + self.batch] for start in range(0, len(numbers), self.batch)]
        coming: list[tuple[int, Future[Tensor]]] = []
        with ThreadPoolExecutor(self.readers) as pool:
            for part in [*parts, numbers[:0]]:
                now, coming = coming, [(i, pool.submit(self.read, images, i)) for i in part]
                if now:
                    yield np.array([i for i, _ in now]), torch.stack([image.result() for _, image in now])

    def read(self, images: Sequence[OneImage], number: int) -> Tensor:
        """(3, H, W)"""
        image, resize = images[number], self.cfg.DATA.RESIZE
        if isinstance(image, str | os.PathLike):
            return eval_transform(open_image(os.fspath(image), self.height, self.width, resize))
        if isinstance(image, Image.Image) and all(image.size):
            try:
                image = in_rgb(image.copy())
            except Exception as error:  # noqa: BLE001 - Pillow raises many kinds for broken files
                raise DataError(f"{name_of(images, number)} is broken ({error}); open it anew") from None
        elif isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
            image = Image.fromarray(image)
        else:
            found = f"an array of {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else str(type(image))
            raise DataError(
                f"{name_of(images, number)} is {found}; an image is a path, a Pillow image, or an (H, W, 3) uint8 "
                "array in RGB that has pixels"
            )
        return eval_transform(resized(image, self.height, self.width, resize))


def load(
    run: str | os.PathLike, *, device: str = "auto", precision: str = "float32", batch: int | None = None,
    weighting: str | None = None, options: Mapping[str, object] | None = None, readers: int = 4,
) -> Net:
    """The network of a run, as test.py and scripts/search.py embed with it.

    run         the run's folder, or a checkpoint of train.py; an unfinished training is taken as it is
    device      "auto", "cpu", "cuda", "cuda:1", ...
    precision   "float32", as test.py embeds; "bfloat16" or "float16": the network's layers in it, for speed on a GPU
    batch       images that are embedded at once; TEST.BATCH of the run where it is None
    weighting   of pooled and neck features; the one that test.py reports first where it is None
    options     others over the run's by their keys, such as {"EMBEDDING.DIM": 256, "TEST.FLIP": False}
    readers     threads that read images
    raises      CheckpointError, ConfigError, DeviceError and the rest of ERRORS
    """
    if not isinstance(run, str | os.PathLike) or not isinstance(options, Mapping | None):
        raise ConfigError(
            f"run is {run!r} and options is {options!r}; they are a path, and a dictionary of options by their keys"
        )
    if precision not in AUTOCAST:
        raise ConfigError(f"precision is {precision!r}; it is one of {', '.join(AUTOCAST)}")
    for name, number in (("batch", batch), ("readers", readers)):
        if number is not None and not is_count(number):
            raise ConfigError(f"{name} is {number!r}; it is a whole number of 1 at least")
    wanted = {"DEVICE": device} | ({"TEST.WEIGHTINGS": [weighting]} if weighting else {}) | dict(options or {})
    words = [str(word) for pair in wanted.items() for word in pair]
    seeded = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(seeded):  # a program's own random numbers are not to depend on this
        embed, cfg, settings = open_embedder(Path(run), words, score="inner", autocast=AUTOCAST[precision])
    return Net(embed, cfg, settings, batch or cfg.TEST.BATCH, readers)


class Ranking(NamedTuple):
    """Of each query, gallery rows from the best on.

    order          (Q, K) int64 rows of the gallery; -1 where a query has fewer that it does not ignore
    similarities   (Q, K) float32, descending; -inf there
    """

    order: np.ndarray
    similarities: np.ndarray


def rank(
    queries: np.ndarray | Tensor, gallery: np.ndarray | Tensor, *, top: int | None = None,
    gallery_cameras: Sequence[int] | None = None, ignores: Sequence[int | Collection[int]] | None = None,
    rerank: str = "none", aim: tuple[int, int] = (4, 1), device: str = "cpu",
) -> Ranking:
    """By inner product, as test.py and scripts/search.py rank; of equal similarities, the earlier row comes first.

    queries, gallery   (Q, D) and (G, D) embeddings of one network
    top                how many rows to name for each query; all where it is None
    gallery_cameras    (G,) whole numbers; with `ignores`
    ignores            of each query, the camera whose images it ignores, or several, or -1 for none
    rerank             "none"; "k_reciprocal" (similarities are then negative distances) or "aim", which look at all
                       queries and at the whole gallery (docs/protocols.md)
    aim                its numbers of neighbours, k1 and k2
    device             where it is computed
    raises             EvaluationError, ConfigError, DeviceError
    """
    if rerank not in RERANKINGS:
        raise ConfigError(
            f"rerank is {rerank!r}; it is one of {', '.join(RERANKINGS)} (mser embeds visible images four times: "
            "test.py has it)"
        )
    if top is not None and not is_count(top):
        raise ConfigError(f"top is {top!r}; it is a whole number of 1 at least, or None")
    if rerank == "aim" and not (isinstance(aim, Sequence) and len(aim) == 2 and all(map(is_count, aim))):
        raise ConfigError(f"aim is {aim!r}; its two numbers are 1 at least")
    on = select_device(device)
    queries, gallery = (matrix(x, name, on) for x, name in ((queries, "queries"), (gallery, "gallery")))
    if queries.shape[1] != gallery.shape[1]:
        raise EvaluationError(
            f"queries have {queries.shape[1]} numbers each, the gallery has {gallery.shape[1]}: embed both with one "
            "network"
        )
    ignored = ignored_pairs(gallery_cameras, ignores, len(queries), len(gallery))
    width = min(top or len(gallery), len(gallery))
    step = max(1, BLOCK_BYTES // (24 * len(gallery)))
    similarity = None
    if rerank == "k_reciprocal":
        similarity = -reranked_distance(queries, gallery)
    elif rerank == "aim":
        similarity = aim_similarity(queries, gallery, *aim)
    parts = []
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        part = inner_products(queries[some], gallery) if similarity is None else similarity[some].clone()
        if ignored is not None:
            part[torch.from_numpy(ignored[some]).to(on)] = -torch.inf
        parts.append(ranking_keys(part).topk(width, dim=1, largest=False).values.cpu())
    scores, order = scores_and_rows(torch.cat(parts))
    return Ranking(order.masked_fill(scores == -torch.inf, -1).numpy(), scores.numpy())


def listed(images: OneImage | Sequence[OneImage]) -> Sequence[OneImage]:
    """One image as a list of one; an (N, H, W, 3) array is a sequence of images already."""
    if isinstance(images, str | os.PathLike | Image.Image) or isinstance(images, np.ndarray) and images.ndim < 4:
        return [images]
    try:
        return [*images]
    except TypeError:
        raise DataError(
            f"images is {type(images)}; it is an image (a path, a Pillow image, an array) or a list of images"
        ) from None


def is_count(number: object) -> bool:
    """Whether it is a whole number of 1 at least, Python's or NumPy's."""
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= 1


def name_of(images: Sequence[OneImage], number: int) -> str:
    """An image in a message."""
    image = images[number]
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"


def modality_of_each(infrared: bool | Sequence[bool], images: int) -> np.ndarray:
    """(images,) bool

    raises   ConfigError
    """
    try:
        found = np.asarray(infrared)
    except ValueError:  # lists of several lengths
        found = np.empty(1, object)
    if found.dtype != bool and found.size or found.ndim > 1:
        raise ConfigError(f"infrared is {infrared!r}; it is True or False, or a list with a value of each image")
    if found.ndim and len(found) != images:
        raise ConfigError(
            f"infrared has {how_many(len(found), 'value')} for {how_many(images, 'image')}: give one for each"
        )
    return np.broadcast_to(found.astype(bool), images)


def matrix(values: np.ndarray | Tensor, name: str, device: torch.device) -> Tensor:
    """(N, D) float32 on the device.

    raises   EvaluationError
    """
    try:
        given = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        given = None
    if given is None or given.is_complex():
        raise EvaluationError(f"{name} is {type(values)} that holds no real numbers; it is an array of rows of them")
    found = given.detach().to(device, torch.float32)
    if found.ndim != 2 or not found.numel():
        raise EvaluationError(f"{name} has the shape {tuple(found.shape)}; it is (rows, numbers), neither of them 0")
    bad = rows_not_finite(found)
    if bad:
        raise EvaluationError(f"row {bad[0]} of {name} is not finite (nan or infinite)")
    return found


def ignored_pairs(
    gallery_cameras: Sequence[int] | None, ignores: Sequence[int | Collection[int]] | None, queries: int, gallery: int
) -> np.ndarray | None:
    """(Q, G) bool: pairs that don't count; None where there are none.

    raises   EvaluationError
    """
    if (gallery_cameras is None) != (ignores is None):
        raise EvaluationError("gallery_cameras and ignores go together: give both, or none")
    if gallery_cameras is None or ignores is None:
        return None
    for name, given, wanted in (("gallery_cameras", gallery_cameras, gallery), ("ignores", ignores, queries)):
        if not isinstance(given, Sized):
            raise EvaluationError(f"{name} is {type(given)}; it is a list with an entry for each row")
        if len(given) != wanted:
            raise EvaluationError(
                f"{name} has {how_many(len(given), 'entry', 'entries')}; it needs {wanted}, one for each row"
            )
    cameras = camera_numbers(gallery_cameras, "gallery_cameras")
    each = [camera_numbers([*own] if isinstance(own, AbstractSet) else own, "an entry of ignores") for own in ignores]
    return np.stack([np.isin(cameras, own[own != -1]) for own in each])  # -1 is none, also where a camera is unknown


def camera_numbers(given: object, name: str) -> np.ndarray:
    """(N,) whole numbers: others would be equal to none, and nothing would be ignored.

    raises   EvaluationError
    """
    try:
        found = np.atleast_1d(np.asarray(given))
    except (TypeError, ValueError):
        found = np.empty(1, object)
    if found.ndim > 1 or found.size and found.dtype.kind not in "iu":
        raise EvaluationError(f"{name} is {str(given)[:100]!r}; cameras are whole numbers: number those with names")
    return found.astype(np.int64)
