"""The best gallery rows of each query: exactly, in chunks of a memory map, or by FAISS with exact scores."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.checksum import is_sealed, read_sealed_json, seal, sealed_json
from common.words import how_many
from utils.evaluation.metrics import inner_products, ranking_keys
from utils.output import replacing, write_atomically
from utils.retrieval.compress import principal_directions
from utils.retrieval.index import FAISS, FAISS_CHECK

CHUNK_BYTES = {"cpu": 32 << 20}  # of gallery rows and similarities held at once; the CPU's caches like few
DEFAULT_CHUNK_BYTES = 512 << 20

# FAISS pays from this many multiplications on (queries x rows x numbers): minutes of exact search on a few cores; a
# GPU is some hundred times faster.
FAISS_FROM = {"cpu": 1e13}
FAISS_FROM_ELSEWHERE = 1e15
RECALL = 0.95            # the share of exact answers that FAISS must give on a sample of the queries
SAMPLE = 32              # queries in it
GROWTH = 1.1             # up to so many times the rows that it was made on, a check holds
PROBES = (16, 64, 256)   # inverted lists that FAISS looks into, the first number that gives enough recall
DIRECTIONS = 256         # numbers by which FAISS preselects
CANDIDATES = 10          # preselected rows for each answer, whose exact scores decide
LEARN_FROM = 4096        # rows from which the directions are learned
ROWS = 4096              # that FAISS takes at once


class FaissMissing(ValueError):
    """FAISS is not installed."""


def search_exact(
    queries: Tensor, matrix: np.ndarray, current: np.ndarray, top: int, chunk_bytes: int | None = None
) -> tuple[Tensor, Tensor]:
    """By the inner product with every row, in one pass over the matrix.

    queries       (Q, D) float32, on the device that computes
    matrix        (N, D) float32 or float16, such as a memory map
    current       (N,) bool: rows that take part
    chunk_bytes   working memory; the result does not depend on it, but for roundings
    returns       scores (Q, K) float32, the best first, and rows (Q, K) int64, both on the CPU, K = top or fewer where
                  fewer rows take part; ties go to the earlier row
    """
    number, width = matrix.shape
    chunk_bytes = chunk_bytes or CHUNK_BYTES.get(queries.device.type, DEFAULT_CHUNK_BYTES)
    best = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    step = max(1, chunk_bytes // (4 * width + 24 * len(queries)))
    for start in range(0, number, step):
        part = current[start:start + step]
        if not part.any():
            continue
        rows = torch.from_numpy(matrix[start:start + step]).to(queries.device).float()
        similarity = inner_products(queries, rows)
        similarity[:, torch.from_numpy(~part).to(queries.device)] = -torch.inf
        keys = ranking_keys(similarity).add_(start)
        keys = keys.topk(min(top, len(part)), dim=1, largest=False).values
        best = torch.cat([best, keys], dim=1).sort(dim=1).values[:, :top]
    return scores_and_rows(best[:, :int(current.sum())].cpu())


def scores_and_rows(keys: Tensor) -> tuple[Tensor, Tensor]:
    """What `ranking_keys` put into its keys."""
    ascending = (keys >> 32).int()
    bits = ascending ^ ((ascending >> 31) & 0x7FFFFFFF)
    return 0 - bits.view(torch.float32), keys & 0xFFFFFFFF


def faiss_search(
    queries: Tensor, matrix: np.ndarray, current: np.ndarray, top: int, folder: Path,
    report: Callable[[str], None] = print, kind: str = "", index: Any = None,
) -> Callable[[], tuple[Tensor, Tensor]]:
    """What does as `search_exact`, in less time.

    FAISS preselects rows by their first principal directions, in bytes, in the inverted lists nearest to the query;
    the inner product with the rows of the matrix decides. On a sample of the queries the answers are compared with the
    exact ones, and where too few are equal, all queries are searched exactly. What the comparison gave is kept, and
    holds while the matrix hardly grows (`kept_check`).

    folder    where FAISS's index of the matrix is kept; rows that it lacks are added. Nobody else may write there until
              this returns (`open_index`)
    report    gets a sentence with the recall
    kind      of the queries: what was compared for one kind says nothing about another
    index     of `faiss_index`, where it is there already
    raises    FaissMissing
    """
    faiss = import_faiss()
    index = faiss_index(faiss, matrix, folder, report) if index is None else index
    check = kept_check(folder, len(matrix), len(queries), top, kind)
    if check is None:
        check = checked(faiss, index, queries, matrix, current, top) | {"kind": kind}
        write_atomically(folder / FAISS_CHECK, sealed_json(check))
    sentence = (
        f"FAISS gives {100 * check['recall']:.1f} % of the exact answers of "
        f"{how_many(check['queries'], 'query', 'queries')} ({check['probes']} lists)"
    )
    if check["recall"] < RECALL:
        report(f"{sentence}, less than {100 * RECALL:.0f} %: searching exactly instead")
        return partial(search_exact, queries, matrix, current, top)
    report(sentence)
    return partial(preselected, faiss, index, queries, matrix, current, top, check["probes"])


def checked(faiss: ModuleType, index: Any, queries: Tensor, matrix: np.ndarray, current: np.ndarray, top: int) -> dict:
    """The first of PROBES by which a sample of the queries gets RECALL of the exact answers, or else the last.

    returns   its number of lists ("probes") and the share ("recall"), and of how many rows, queries and answers each
    """
    sample = queries[torch.from_numpy(evenly_placed(len(queries), SAMPLE)).to(queries.device)]
    wanted, _ = search_exact(sample, matrix, current, top)
    for probes in PROBES:
        found, _ = preselected(faiss, index, sample, matrix, current, top, probes)
        recall = (found >= wanted[:, -1:] - 1e-5).float().mean().item()  # of equal scores, any may be the answer
        if recall >= RECALL:
            break
    return {"rows": len(matrix), "queries": len(sample), "top": top, "probes": probes, "recall": recall}


def kept_check(folder: Path, rows: int, queries: int, top: int, kind: str) -> dict | None:
    """An earlier call's result of `checked` in the folder, if it says enough about these many queries and answers.

    rows   of the matrix now
    """
    try:
        check = read_sealed_json(folder / FAISS_CHECK)
        holds = (
            check["rows"] <= rows < GROWTH * check["rows"] and check["queries"] >= min(queries, SAMPLE)
            and check["top"] >= top and check["kind"] == kind and check["probes"] in PROBES
            and 0 <= check["recall"] <= 1
        )
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged
        return None
    return check if holds else None


def preselected(
    faiss: ModuleType, index: Any, queries: Tensor, matrix: np.ndarray, current: np.ndarray, top: int, probes: int
) -> tuple[Tensor, Tensor]:
    """The best of FAISS's candidates; where it finds fewer than there are rows, the last scores are -inf."""
    top, asked = min(top, int(current.sum())), queries.cpu().numpy()
    lists = faiss.SearchParametersIVF(
        nprobe=probes, sel=faiss.IDSelectorBitmap(np.packbits(current, bitorder="little"))
    )
    parameters = faiss.SearchParametersPreTransform(index_params=lists)
    _, candidates = index.search(asked, CANDIDATES * top, params=parameters)
    scores, rows = torch.full((len(queries), top), -torch.inf), torch.zeros(len(queries), top, dtype=torch.int64)
    for i, (query, row) in enumerate(zip(asked, candidates)):
        row = np.sort(row[row >= 0])  # -1 stands for none
        score = torch.from_numpy(matrix[row].astype(np.float32) @ query)
        order = score.argsort(descending=True, stable=True)[:top]
        scores[i, :len(order)], rows[i, :len(order)] = score[order], torch.from_numpy(row)[order]
    return scores, rows


def faiss_index(faiss: ModuleType, matrix: np.ndarray, folder: Path, report: Callable[[str], None]) -> Any:
    """FAISS's index of all rows of the matrix: as it lies in the folder, with what has been added since."""
    file = folder / FAISS
    index = read_index(faiss, file, *matrix.shape)
    if index is None:
        (folder / FAISS_CHECK).unlink(missing_ok=True)  # that of another index
        report(f"training FAISS on {how_many(len(matrix), 'embedding')}")
        index = trained_index(faiss, matrix)
    if index.ntotal < len(matrix):
        report(f"adding {how_many(len(matrix) - index.ntotal, 'embedding')} to {file}")
        for start in range(index.ntotal, len(matrix), ROWS):
            index.add(np.asarray(matrix[start:start + ROWS], np.float32))
        with replacing(file) as temporary:
            faiss.write_index(index, str(temporary))
            seal(temporary)
    return index


def read_index(faiss: ModuleType, file: Path, rows: int, width: int) -> Any:
    """FAISS's index in the file; None where that is missing, damaged, of another matrix or of a much smaller set."""
    try:
        if not is_sealed(file):  # FAISS would trust the bytes with the process's memory
            return None
        index = faiss.read_index(str(file))
    except (OSError, RuntimeError, MemoryError):
        return None
    fits = isinstance(index, faiss.IndexPreTransform) and index.d == width and rows / 2 <= index.ntotal <= rows
    return index if fits else None


def trained_index(faiss: ModuleType, matrix: np.ndarray) -> Any:
    """An empty index: principal directions, 4 √N inverted lists, a byte for each number."""
    number, width = matrix.shape
    lists = max(1, min(int(4 * number**0.5), number // 40))
    directions = torch.eye(width)
    if width > DIRECTIONS:
        learned_from = torch.from_numpy(np.asarray(matrix[evenly_placed(number, LEARN_FROM)], np.float32))
        directions = principal_directions(learned_from, min(DIRECTIONS, len(learned_from)))
    rotation = faiss.LinearTransform(*directions.shape, False)
    faiss.copy_array_to_vector(directions.T.contiguous().numpy().ravel(), rotation.A)
    rotation.is_trained = True
    inner = faiss.index_factory(directions.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    sample = evenly_placed(number, 40 * lists)
    parts = np.split(sample, range(ROWS, len(sample), ROWS))
    inner.train(np.concatenate([rotation.apply(np.asarray(matrix[rows], np.float32)) for rows in parts]))
    return faiss.IndexPreTransform(rotation, inner)


def evenly_placed(number: int, most: int) -> np.ndarray:
    """`most` of the rows 0 .. number - 1, or all, ascending."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.int64))


def import_faiss() -> ModuleType:
    try:
        import faiss
    except ImportError:
        raise FaissMissing(
            "FAISS is not installed; install it with: pip install -r requirements-optional.txt"
        ) from None
    return faiss


def faiss_pays(queries: int, matrix: np.ndarray, top: int, device: torch.device, folder: Path, kind: str = "") -> bool:
    """Whether an earlier check says that FAISS does, or exact search takes long or reads more than fits into memory."""
    check = kept_check(folder, len(matrix), queries, top, kind)
    if check is not None:
        return check["recall"] >= RECALL
    work = queries * matrix.size
    return work >= FAISS_FROM.get(device.type, FAISS_FROM_ELSEWHERE) or matrix.nbytes > available_memory()


def available_memory() -> float:
    """Bytes of memory that a program can still have; infinite where the system does not tell."""
    try:
        told = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        told = None
    return 1024 * float(told[1]) if told else float("inf")
