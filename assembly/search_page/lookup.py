"""A gallery's index that answers one query after the other."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from yacs.config import CfgNode

from assembly.gallery import Embedder, chosen_method, stamp_of
from data.pixels import eval_transform, resized
from utils.evaluation.evaluator import EvaluationError, rows_not_finite
from utils.lock import only_one
from utils.retrieval.index import SearchIndex
from utils.retrieval.nearest import faiss_index, faiss_search, import_faiss, search_exact

MODALITY = {False: "vis", True: "ir"}


class Lookup:
    """Several threads may ask; they take turns.

    embed, cfg       of `open_embedder`
    index            of `open_index`, with the images of `root`
    current          (N,) bool: rows that take part
    cameras, times   (N,) of `details_of`
    """

    def __init__(
        self, embed: Embedder, cfg: CfgNode, index: SearchIndex, root: Path, current: np.ndarray, cameras: np.ndarray,
        times: np.ndarray,
    ):
        self.embed, self.cfg, self.index, self.root, self.current = embed, cfg, index, root, current
        self.cameras, self.times, self.matrix = cameras, times, index.matrix()
        self.faiss, self.alone = None, Lock()
        self.last: tuple[tuple[bytes, bool], Tensor] | None = None  # what was asked for, and its embedding

    def get_ready(self, method: str, top: int) -> None:
        """Read what answers take: FAISS's index, or each row once, with its checksum. Belongs inside `open_index`.

        method   exact, faiss or auto
        top      how many answers most queries ask for
        raises   FaissMissing, SearchIndexError
        """
        if chosen_method(method, 1, self.matrix, top, self.embed.device, self.index.folder) == "faiss":
            self.faiss = faiss_index(import_faiss(), self.matrix, self.index.folder, print)
        else:
            search_exact(torch.zeros(1, self.embed.numbers, device=self.embed.device), self.matrix, self.current, 1)

    def name(self, row: int) -> str:
        return self.index.entries[row][0]

    def path(self, row: int) -> Path | None:
        """The image of a row that takes part; None for any other number."""
        return self.root / self.name(row) if 0 <= row < len(self.current) and self.current[row] else None

    def unchanged(self, row: int) -> bool:
        """Whether the file is the one that was embedded: another's image would be shown with its score."""
        try:
            return stamp_of(os.stat(self.root / self.name(row))) == self.index.entries[row][1]
        except OSError:
            return False

    def search(
        self, image: Image.Image, infrared: bool, top: int, cameras: Collection[str] = (),
        since: np.datetime64 | None = None, until: np.datetime64 | None = None,
    ) -> tuple[list[tuple[int, float]], int]:
        """(row, score) of the best images, the best first, and of how many.

        image          in RGB
        cameras        of the images to rank; of all where there are none
        since, until   of their time, both included; images without a time are left out
        raises         EvaluationError where the embedding is not finite
        """
        chosen = self.current
        if cameras:
            chosen = chosen & np.isin(self.cameras, [*cameras])
        for bound, inside in ((since, np.greater_equal), (until, np.less_equal)):
            if bound is not None:
                chosen = chosen & inside(self.times, bound)  # NaT is neither
        number = int(chosen.sum())
        if not number:
            return [], 0
        with self.alone:
            scores, rows = self.nearest(self.embedded(image, infrared), chosen, top, MODALITY[infrared])
        found = zip(rows[0].tolist(), scores[0].tolist())
        return [(row, score) for row, score in found if score > -np.inf], number

    def nearest(self, query: Tensor, chosen: np.ndarray, top: int, modality: str) -> tuple[Tensor, Tensor]:
        if self.faiss is None or chosen is not self.current:  # its lists may hold few of some chosen images
            return search_exact(query, self.matrix, chosen, top)
        with only_one(self.index.folder, "index", wait=True):
            search = faiss_search(
                query, self.matrix, chosen, top, self.index.folder, str, kind=modality, index=self.faiss
            )
        return search()

    def embedded(self, image: Image.Image, infrared: bool) -> Tensor:
        """(1, D); that of the last image is kept, as filters ask for it again."""
        data = self.cfg.DATA
        pixels = resized(image, data.HEIGHT, data.WIDTH, data.RESIZE)
        key = hashlib.sha256(pixels.tobytes()).digest(), infrared
        if self.last is None or self.last[0] != key:
            embedding = self.embed(eval_transform(pixels)[None], infrared)
            if rows_not_finite(embedding):
                raise EvaluationError("the embedding of this image is not finite; take another image or checkpoint")
            self.last = key, embedding
        return self.last[1]
