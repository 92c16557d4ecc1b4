"""Queries and what the network finds for them, as the protocol ranks and scores it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.pixels import open_image
from data.records import Protocol, Record
from utils.evaluation.evaluator import BLOCK_BYTES, Versions, evaluate_protocol, similarities_by
from utils.evaluation.metrics import IGNORED, ranking_keys
from utils.reporting.results import protocol_of
from utils.reporting.sheets import RIGHT, WRONG, ranking_sheet

HEIGHT, WIDTH = 128, 64  # of an image on the sheet, in pixels


def ranking_picture(
    features: Tensor, records: Sequence[Record], protocol: Protocol, *, weighting: str, flip: bool, rerank: str,
    versions: Versions | None = None, aim: tuple[int, int] = (0, 0), trained_on: str = "", random: int, seed: int,
    top: int,
) -> Image.Image:
    """The best, the worst and some random queries of a protocol's first gallery, each with its first images.

    features          (N, E) embeddings of the records, weighed
    weighting, flip   how they were weighed and made: the title says it
    rerank, versions, aim, trained_on   as in `evaluate_protocol`
    random            how many queries to draw, with `seed`
    top               how many images to show for each
    """
    identities = [record.identity for record in records]
    first = dataclasses.replace(protocol, trials=protocol.trials[:1])
    result = evaluate_protocol(
        features, identities, first, flip=flip, weighting=weighting, rerank=rerank, versions=versions, aim=aim,
        trained_on=trained_on, per_query=True,
    )
    queries = result["trials"][0]["queries"]
    chosen = chosen_queries(queries["ap"], random, seed)
    found = first_images(features, first, [queries["rows"][i] for _, i in chosen], rerank, top, versions, aim)
    rows = []
    for label, i in chosen:
        query = queries["rows"][i]
        caption = f"{label}\n{place_of(records[query])}\nAP {100 * queries['ap'][i]:.1f} %\nrank {queries['rank'][i]}"
        rows.append((image_of(records[query]), caption, [
            (image_of(records[row]), place_of(records[row]), RIGHT if identities[row] == identities[query] else WRONG)
            for row in found[query]
        ]))
    title = f"{protocol_of(result)}, gallery 1 of {len(protocol.trials)}, weighting {weighting}"
    title += flip * ", mirrored images added" + bool(result["rerank"]) * f", re-ranked by {result['rerank']}"
    return ranking_sheet(rows, title, HEIGHT, WIDTH)


def image_of(record: Record) -> Image.Image:
    return Image.fromarray(open_image(record.path, HEIGHT, WIDTH))


def place_of(record: Record) -> str:
    return f"camera {record.camera}\nidentity {record.identity}"


def chosen_queries(ap: Sequence[float], random: int, seed: int) -> list[tuple[str, int]]:
    """(what it is, its place in `ap`) of the best and the worst query, the first ones of equals, and of random others.

    ap   average precision of each query
    """
    values, chosen = np.array(ap), []
    for name, i in (("best", values.argmax()), ("worst", values.argmin())):
        equals = int((values == values[i]).sum())
        chosen.append((f"{name} query" if equals == 1 else f"{name} query,\nfirst of {equals}", int(i)))
    others = np.setdiff1d(np.arange(len(ap)), [i for _, i in chosen])
    drawn = np.random.default_rng(seed).permutation(others)[:random]
    return chosen + [("random query", i) for i in sorted(drawn.tolist())]


def first_images(
    features: Tensor, protocol: Protocol, queries: Sequence[int], rerank: str, top: int,
    versions: Versions | None = None, aim: tuple[int, int] = (0, 0),
) -> dict[int, list[int]]:
    """The rows of the best gallery images of some queries, by query; the same similarities as are scored.

    protocol   of one trial
    queries    rows of its queries
    """
    trial, = protocol.trials
    similarities, _ = similarities_by(rerank, protocol.name, versions, aim)
    found = {}
    for _, rows, similarity in similarities(features, protocol.trials, None, BLOCK_BYTES):
        for place in np.flatnonzero(np.isin(rows, queries)):
            query = int(rows[place])
            ignored = protocol.query_ignores[query] == protocol.gallery_group[trial.gallery]
            keys = ranking_keys(similarity[place, None])[0].cpu().masked_fill_(torch.from_numpy(ignored), IGNORED)
            order = keys.argsort()[:min(top, int((~ignored).sum()))]
            found[query] = trial.gallery[order.numpy()].tolist()
    return found
