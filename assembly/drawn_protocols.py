"""Protocols of the data sets' sizes over drawn embeddings: what an evaluation costs, without the data.

The numbers of queries, gallery entries, cameras and trials are the data sets'.
"""

import numpy as np
import torch

from data.records import Protocol, Trial


def sysu(shots: int, trials: int, quick: bool) -> tuple[np.ndarray, Protocol]:
    """All-search: 3,803 queries; galleries of `shots` images from each of 301 (identity, camera) folders."""
    identities, folders, queries = (12, 37, 60) if quick else (96, 301, 3803)
    r = np.random.RandomState(0)
    every_folder = np.array([(i, camera) for i in range(identities) for camera in (1, 2, 4, 5)])
    folder = np.repeat(every_folder[np.sort(r.permutation(len(every_folder))[:folders])], 22, axis=0)
    query = np.stack([r.randint(0, identities, queries), r.choice([3, 6], queries)], axis=1)
    images = np.concatenate([query, folder])

    def gallery(trial: int) -> np.ndarray:
        r = np.random.RandomState(trial)
        return queries + np.concatenate([22 * f + np.sort(r.permutation(22)[:shots]) for f in range(folders)])

    return images[:, 0], Protocol(
        name=f"SYSU-MM01 all-search, {shots} shot" + "s" * (shots > 1), counts="identities",
        trials=tuple(Trial(query=np.arange(queries), gallery=gallery(t)) for t in range(trials)),
        query_ignores=np.where(images[:, 1] == 3, 2, -1), gallery_group=images[:, 1],
    )


def regdb(quick: bool) -> tuple[np.ndarray, Protocol]:
    """206 identities with 10 images in each modality; one trial."""
    identities = np.repeat(np.arange(12 if quick else 206), 10)
    images = len(identities)
    return np.tile(identities, 2), Protocol(
        name="RegDB", counts="images",
        trials=(Trial(query=np.arange(images), gallery=images + np.arange(images)),),
        query_ignores=np.full(2 * images, -1), gallery_group=np.zeros(2 * images, dtype=np.int64),
    )


def llcm(trials: int, quick: bool) -> tuple[np.ndarray, Protocol]:
    """7,166 queries; galleries of one image from each of 351 x 9 (identity, camera) folders, which hold two."""
    identities, queries = (12, 60) if quick else (351, 7166)
    r = np.random.RandomState(0)
    folder = np.array([(i, camera) for i in range(identities) for camera in range(1, 10) for _ in range(2)])
    query = np.stack([r.randint(0, identities, queries), r.randint(1, 10, queries)], axis=1)
    images = np.concatenate([query, folder])
    group = 100 * images[:, 0] + images[:, 1]
    galleries = [queries + np.arange(0, len(folder), 2) + r.randint(0, 2, len(folder) // 2) for _ in range(trials)]
    return images[:, 0], Protocol(
        name="LLCM", counts="identities",
        trials=tuple(Trial(query=np.arange(queries), gallery=gallery) for gallery in galleries),
        query_ignores=group, gallery_group=group,
    )


def draw_features(identities: np.ndarray, dimensions: int, device: torch.device) -> torch.Tensor:
    """(N, E) float32: each identity's own direction under noise that keeps the search from being trivial."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(identities.max() + 1, dimensions, generator=generator)
    features = torch.randn(len(identities), dimensions, generator=generator).mul_(0.77 * dimensions ** 0.25)
    for i in range(0, len(features), 256):
        features[i:i + 256] += centres[identities[i:i + 256]]
    return (features / dimensions ** 0.5).to(device)
