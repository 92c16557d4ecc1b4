"""Loaders -> embeddings, once -> the figures of every protocol and trial (docs/protocols.md)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from common.words import how_many
from utils.evaluation.aim import aim_similarity, settings_of
from utils.evaluation.metrics import QueryFigures, full_float32, inner_products, rank_queries, summarize
from utils.evaluation.mser import mser_distance
from utils.evaluation.protocol import AnyProtocol, AnyTrial
from utils.evaluation.rerank import reranked_distance
from utils.reporting.results import protocol_of, reranking
from utils.training.distributed import sum_over_ranks

FIGURES = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "rank20": "Rank-20", "mAP": "mAP", "mINP": "mINP"}
BLOCK_BYTES = 256 << 20  # queries' features, similarities and mask held at once


class EvaluationError(ValueError):
    """Embeddings or a protocol that cannot be evaluated."""


class Versions(NamedTuple):
    """What MSER needs beside the embeddings (utils/evaluation/mser.py)."""

    infrared: np.ndarray  # (N,) bool
    features: Tensor      # (3, N, E): of images all channels of which are their red, green, blue one; of visible rows

    def of(self, change: Callable[[Tensor], Tensor]) -> "Versions":
        """Features changed by what takes (N, E)."""
        return Versions(self.infrared, torch.stack([change(features) for features in self.features]))


@torch.inference_mode()
def embed_images(
    embed: Callable[[Tensor, bool], Tensor],
    loaders: Iterable[tuple[Iterable[tuple[Tensor, Tensor]], bool]],
    paths: Sequence[str],
    device: torch.device,
    autocast: torch.dtype | None = None,
    stop: object = None,
) -> Tensor | None:
    """Embed every image once; of several processes, each embeds what its loaders hold, and all get everything.

    Convolutions and matrix products are in true float32, never in TF32, so that figures depend on no device's habits.

    embed      (images (B, 3, H, W) on the device, infrared) -> (B, E); its model is in evaluation mode
    loaders    (loader, infrared) for each modality; a loader yields (images (B, 3, H, W), rows (B,) int64)
    paths      N paths, one for each row
    autocast   the network's dtype, such as torch.bfloat16; None is float32
    stop       is true when this process is to stop; all of them do where one of them is to
    returns    (N, E) float32 on the device; None where it was stopped
    raises     EvaluationError where a row is missing or comes twice, or an embedding is not finite
    """
    device = torch.device(device)
    features, times_seen = None, np.zeros(len(paths), dtype=np.int64)
    for loader, infrared in loaders:
        for images, rows in loader:
            if stop:
                break
            images = images.to(device, non_blocking=True)
            with full_float32(device), torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                embedding = embed(images, infrared)
            if features is None:
                features = torch.zeros(len(paths), embedding.shape[1], device=device)
            features[rows.to(device, non_blocking=True)] = embedding.float()
            np.add.at(times_seen, rows.numpy(), 1)
    if stop is not None and sum_over_ranks(torch.full((1,), float(bool(stop)), device=device)).item() > 0:
        return None
    if features is None:
        raise EvaluationError("a process has no image to embed: start fewer processes than there are images")
    sum_over_ranks(features)
    times_seen = sum_over_ranks(torch.from_numpy(times_seen).to(device)).cpu().numpy()
    if (times_seen != 1).any():
        row = int((times_seen != 1).argmax())
        raise EvaluationError(f"{paths[row]} (row {row}) was embedded {times_seen[row]} times instead of once")
    broken = rows_not_finite(features)
    if broken:
        raise EvaluationError(
            f"the embedding of {paths[broken[0]]} is not finite (nan or infinite), nor are {len(broken) - 1} of the "
            f"other {len(paths) - 1}: the network's maps overflow, as a high learning rate can make them; train anew "
            "with a lower SOLVER.BASE_LR, or take an earlier checkpoint"
        )
    return features


def rows_not_finite(features: Tensor) -> list[int]:
    return (~features.sum(dim=1).isfinite()).nonzero().flatten().tolist()  # a sum passes nan and infinity on


def evaluate_protocol(
    features: Tensor,
    identities: Sequence[int] | np.ndarray,
    protocol: AnyProtocol,
    *,
    flip: bool,
    weighting: str,
    scale: Tensor | None = None,
    rerank: str = "none",
    versions: Versions | None = None,
    aim: tuple[int, int] = (0, 0),
    trained_on: str = "",
    per_query: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> dict:
    """All trials of one protocol.

    features          (N, E) float32 on any device; after scaling, one inner product is the whole similarity
    identities        (N,)
    protocol          of data/records.py, or what has the same (utils/evaluation/protocol.py)
    flip, weighting   how the embeddings were made and weighed: they stand beside the figures
    scale             (E,) factors of the embeddings' columns
    rerank            none, k_reciprocal (utils/evaluation/rerank.py), mser (utils/evaluation/mser.py) or aim
                      (utils/evaluation/aim.py)
    versions          for mser
    aim               for aim: k1 and k2, 0 for its authors'
    trained_on        the name of the network's data set where that is another one: it stands beside the figures
    per_query         add each trial's "queries": rows (ascending), rank, ap and inp of the valid ones
    block_bytes       working memory beside `features` and a copy of the gallery's part of it
    returns           {"protocol", "flip", "weighting", "rerank" (its name, or False), "trained_on" (where it is given),
                      "trials": [figures, "valid_queries" and "cmc" (Rank-1 to Rank-20), ...], "mean", "std"}, ready for
                      JSON; fractions, and the standard deviation of the population of trials
    raises            EvaluationError
    """
    counted = {len(features), len(identities), len(protocol.query_ignores), len(protocol.gallery_group)}
    if len(counted) > 1:
        raise EvaluationError(
            f"{protocol.name} describes {how_many(len(protocol.gallery_group), 'image')}, for which there are "
            f"{how_many(len(features), 'embedding')} and {how_many(len(identities), 'identity', 'identities')}"
        )
    described = tuple(protocol.trials)
    if not described:
        raise EvaluationError(f"{protocol.name} has no trial")
    for number, trial in enumerate(described):
        if not len(trial.query) or not len(trial.gallery):
            raise EvaluationError(
                f"{protocol.name}, trial {number} lacks queries or gallery images: it has {len(trial.query)} and "
                f"{len(trial.gallery)} of them"
            )
    broken = rows_not_finite(features)
    if broken:
        raise EvaluationError(f"{protocol.name}: the embedding in row {broken[0]} is not finite (nan or infinite)")
    who, query_ignores, gallery_group = (
        torch.as_tensor(x, device=features.device)
        for x in (identities, protocol.query_ignores, protocol.gallery_group)
    )
    similarities, by = similarities_by(rerank, protocol.name, versions, aim)
    rows: list[list[np.ndarray]] = [[] for _ in described]
    figures: list[list[QueryFigures]] = [[] for _ in described]
    for number, query, similarity in similarities(features, described, scale, block_bytes):
        gallery = described[number].gallery
        ignored = None
        if (protocol.query_ignores[query] >= 0).any():
            ignored = query_ignores[query, None] == gallery_group[gallery]
        rows[number].append(query)
        figures[number].append(
            rank_queries(similarity, who[query], who[gallery], ignored, protocol.counts)
        )

    trials = []
    for number, parts in enumerate(figures):
        try:
            trials.append(trial_figures(QueryFigures.concatenate(parts), np.concatenate(rows[number]), per_query))
        except ValueError as error:
            raise EvaluationError(f"{protocol.name}, trial {number}: {error}") from None
    return {
        "protocol": protocol.name,
        "flip": flip,
        "weighting": weighting,
        "rerank": by != "none" and by,
        **({"trained_on": trained_on} if trained_on else {}),
        "trials": trials,
        "mean": {key: float(np.mean([trial[key] for trial in trials])) for key in FIGURES},
        "std": {key: float(np.std([trial[key] for trial in trials])) for key in FIGURES},
    }


def trial_figures(figures: QueryFigures, rows: np.ndarray, per_query: bool) -> dict:
    """One entry of "trials" (`evaluate_protocol`); `rows` are the queries'."""
    summary = summarize(figures)
    trial = {f"rank{k}": summary["cmc"][k - 1] for k in (1, 5, 10, 20)}
    trial |= {key: summary[key] for key in ("mAP", "mINP", "valid_queries", "cmc")}
    if per_query:
        trial["queries"] = {"rows": rows[figures.valid.numpy()].tolist()}
        trial["queries"] |= {key: getattr(figures, key)[figures.valid].tolist() for key in ("rank", "ap", "inp")}
    return trial


def similarities_by(
    rerank: str, protocol: str, versions: Versions | None = None, aim: tuple[int, int] = (0, 0)
) -> tuple[Callable, str]:
    """What ranks, a function as `plain_similarities` is, and its name, with all that its figures depend on.

    rerank     none, k_reciprocal, mser or aim
    protocol   the name of a protocol
    versions   for mser
    aim        for aim: k1 and k2, 0 for its authors'
    raises     EvaluationError
    """
    if rerank == "aim":
        try:
            k1, k2 = settings_of(protocol, *aim)
        except ValueError as error:
            raise EvaluationError(str(error)) from None
        return partial(aim_similarities, k1=k1, k2=k2), f"aim (k1 {k1}, k2 {k2})"
    ways: dict[str, Callable] = {
        "none": plain_similarities, "k_reciprocal": reranked_similarities,
        "mser": partial(mser_similarities, versions=cast(Versions, versions)),
    }
    return ways[rerank], rerank


def check_reranking(
    rerank: str, protocols: Sequence[AnyProtocol], infrared: Sequence[bool] | np.ndarray, aim: tuple[int, int] = (0, 0)
) -> None:
    """Whether these protocols can be re-ranked, before any image is embedded.

    protocols   as in `evaluate_protocol`
    infrared    (N,)
    raises      EvaluationError
    """
    for protocol in protocols:
        similarities_by(rerank, protocol.name, aim=aim)
        if rerank == "mser":
            for number, trial in enumerate(protocol.trials):
                check_across(number, trial, np.asarray(infrared))


def check_across(number: int, trial: AnyTrial, infrared: np.ndarray) -> None:
    """
    raises   EvaluationError where a trial's queries and gallery aren't of one modality each, and different ones
    """
    kinds = [{*infrared[rows].tolist()} for rows in (trial.query, trial.gallery)]
    if len(kinds[0] | kinds[1]) != 2 or kinds[0] & kinds[1]:
        raise EvaluationError(
            f"trial {number} has queries or gallery images of both modalities, or both of one, and MSER ranks one "
            "modality for the other: set TEST.RERANK to another one, or to none"
        )


def plain_similarities(
    features: Tensor, trials: Sequence[AnyTrial], scale: Tensor | None, block_bytes: int
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """(trial's number, query rows (Q,), similarities (Q, gallery)) in blocks, a trial's query rows ascending.

    Trials share queries and gallery images, so each pair that any trial needs is multiplied once.
    """
    queries = np.unique(np.concatenate([trial.query for trial in trials]))
    gallery = np.unique(np.concatenate([trial.gallery for trial in trials]))
    gallery_features = scaled(features[gallery], scale)
    columns = [torch.as_tensor(np.searchsorted(gallery, t.gallery), device=features.device) for t in trials]
    # A query's features and similarities, and what one trial takes of them, with its mask.
    bytes_per_query = 4 * (features.shape[1] + len(gallery)) + 5 * max(len(trial.gallery) for trial in trials)
    step = max(1, block_bytes // bytes_per_query)
    for i in range(0, len(queries), step):
        block = queries[i:i + step]
        similarity = inner_products(scaled(features[block], scale), gallery_features)
        for number, trial in enumerate(trials):
            query = np.sort(trial.query[(trial.query >= block[0]) & (trial.query <= block[-1])])
            if len(query):
                rows = torch.as_tensor(np.searchsorted(block, query), device=features.device)
                yield number, query, similarity[rows[:, None], columns[number]]


def reranked_similarities(
    features: Tensor, trials: Sequence[AnyTrial], scale: Tensor | None, block_bytes: int
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """As `plain_similarities`, by re-ranked distance; a trial comes in one block."""
    for number, trial in enumerate(trials):
        query = np.sort(trial.query)
        distance = reranked_distance(
            scaled(features[query], scale), scaled(features[trial.gallery], scale), chunk_bytes=block_bytes
        )
        yield number, query, -distance


def mser_similarities(
    features: Tensor, trials: Sequence[AnyTrial], scale: Tensor | None, block_bytes: int, versions: Versions
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """As `reranked_similarities`, by MSER.

    raises   EvaluationError where queries and gallery aren't of one modality each, and different ones
    """
    def seen(rows: np.ndarray) -> Tensor:
        """(1 or 4, rows, E')."""
        found = [features[rows]] if versions.infrared[rows[0]] else [features[rows], *versions.features[:, rows]]
        return torch.stack([scaled(x, scale) for x in found])

    for number, trial in enumerate(trials):
        check_across(number, trial, versions.infrared)
        query = np.sort(trial.query)
        yield number, query, -mser_distance(seen(query), seen(trial.gallery), chunk_bytes=block_bytes)


def aim_similarities(
    features: Tensor, trials: Sequence[AnyTrial], scale: Tensor | None, block_bytes: int, k1: int, k2: int
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """As `reranked_similarities`, by AIM."""
    for number, trial in enumerate(trials):
        query = np.sort(trial.query)
        asked, shown = (scaled(features[rows], scale) for rows in (query, trial.gallery))
        yield number, query, aim_similarity(asked, shown, k1, k2, block_bytes)


def scaled(features: Tensor, scale: Tensor | None) -> Tensor:
    """(N, E) -> (N, E'), without the columns of factor 0."""
    if scale is None:
        return features
    if not scale.all():
        kept = scale.nonzero().flatten()
        features, scale = features[:, kept.to(features.device)], scale[kept]
    return features * scale.to(features.device)


def format_table(results: Sequence[dict]) -> str:
    """Results of `evaluate_protocol` as aligned text (`table_rows`)."""
    lines = table_rows(results)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def table_rows(results: Sequence[dict]) -> list[list[str]]:
    """Their header and lines, in percent: mean ± standard deviation over the trials."""
    header = ["protocol", "flip", "weighting", "re-ranking", "trials", *FIGURES.values()]
    lines = [header]
    for result in results:
        number = len(result["trials"])
        figures = [
            f"{100 * result['mean'][key]:.2f}" + (f" ± {100 * result['std'][key]:.2f}" if number > 1 else "")
            for key in FIGURES
        ]
        lines.append([
            protocol_of(result), "yes" if result["flip"] else "no", result["weighting"],
            reranking(result), str(number), *figures,
        ])
    return lines
