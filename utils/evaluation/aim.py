"""AIM, affinity inference: images are compared by whom of the gallery they resemble, too.

Fang et al., "Visible-Infrared Person Re-Identification via Semantic Alignment and Affinity Inference" (SAAI), ICCV
2023, as its released code computes it. Its gain comes from the gallery: an image's figures depend on all others in it.

The affinities of all gallery images with one another are never held at once, but in chunks of rows.
"""

import re

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.evaluation.metrics import inner_products, ranking_keys
from utils.evaluation.rerank import CHUNK_BYTES, chunks

SETTINGS = (  # protocols, and the k1 and k2 that the method's authors take there
    (r"(sysu|synthetic)/all/single-shot/\w+", (4, 1)),
    (r"(sysu|synthetic)/indoor/single-shot/\w+", (2, 2)),
    (r"(sysu|synthetic)/(all|indoor)/multi-shot/\w+", (20, 6)),
    (r"regdb/\d+/(visible-to-thermal|thermal-to-visible)", (8, 2)),
)


def settings_of(protocol: str, k1: int = 0, k2: int = 0) -> tuple[int, int]:
    """k1 and k2 for a protocol; 0 stands for the authors'.

    raises   ValueError where they give none
    """
    theirs = next((found for pattern, found in SETTINGS if re.fullmatch(pattern, protocol)), (0, 0))
    k1, k2 = k1 or theirs[0], k2 or theirs[1]
    if not k1 or not k2:
        raise ValueError(
            f"AIM's authors give no numbers of neighbours for {protocol}: set TEST.AIM.K1 and TEST.AIM.K2, such as 4 "
            "and 1 for one gallery image of each person and camera, 20 and 6 for ten"
        )
    return k1, k2


def aim_similarity(query: Tensor, gallery: Tensor, k1: int, k2: int, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
    """Cosine of a query's affinities to the gallery with those of a gallery image, plus the cosine of the two images.

    An image's affinities are its cosines with all gallery images, in which those below the k1-th largest are 0; a
    gallery image has the mean of those of its k2 nearest ones, itself among them.

    query, gallery   (Q, E) and (G, E), on one device
    k1, k2           more than G: all of them
    chunk_bytes      working memory beside the features and twice the result
    returns          (Q, G), larger is better
    """
    query, gallery = F.normalize(query, dim=1), F.normalize(gallery, dim=1)
    plain = inner_products(query, gallery)                                            # (Q, G)
    inferred = torch.empty_like(plain)
    bytes_per_row = 16 * len(gallery) + 4 * k2 * (3 * len(gallery) + gallery.shape[1])
    for i in chunks(len(gallery), bytes_per_row, chunk_bytes):
        keys = ranking_keys(inner_products(gallery[i], gallery).float())
        nearest = keys.topk(min(k2, len(gallery)), largest=False).indices             # (C, k2), ties by row
        affinity = cut(inner_products(gallery[nearest.flatten()], gallery), k1)       # (C · k2, G)
        affinity = F.normalize(affinity.unflatten(0, nearest.shape).mean(dim=1), dim=1)
        for j in chunks(len(query), 16 * len(gallery), chunk_bytes):
            inferred[j, i] = inner_products(F.normalize(cut(plain[j], k1), dim=1), affinity)
    return inferred.add_(plain)


def cut(affinity: Tensor, k1: int) -> Tensor:
    """(N, G) without what is below a row's k1-th largest, which becomes 0."""
    least = affinity.topk(min(k1, affinity.shape[1]), dim=1).values[:, -1:]
    return torch.where(affinity >= least, affinity, 0)
