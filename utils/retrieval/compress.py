"""Shorter embeddings: a linear projection, learned on the training set, that keeps most of the inner products.

A similarity is an inner product, so this is a principal component analysis without a mean. Of all projections on d
orthonormal directions, that on the leading eigenvectors of the second moment Σ x xᵀ changes the inner products of all
pairs of training images least (in the sum of squares; Eckart and Young 1936). With the mean m subtracted, a product
would be x·x' - m·x - m·x' + m·m, which ranks a gallery otherwise: m·x' differs from one gallery image x' to the next.
"""

from pathlib import Path

import torch
from torch import Tensor

from common.words import how_many
from utils.evaluation.metrics import inner_products
from utils.training.checkpoint import CheckpointError, read_checkpoint, save_checkpoint

CHUNK_BYTES = 256 << 20  # of rows in float64


class CompressionError(ValueError):
    """Embeddings that cannot be projected on so many directions."""


def principal_directions(features: Tensor, number: int) -> Tensor:
    """Leading eigenvectors of the features' second moment, the largest eigenvalue first.

    features   (N, E) float32
    number     how many, d
    returns    (E, d) float32, orthonormal columns
    raises     CompressionError where N images of E numbers have fewer directions, or `number` is none
    """
    images, width = features.shape
    check_number(number, images, width)
    if width <= images:
        leading = eigenvectors(second_moment(features), number)
    else:  # Xᵀu is an eigenvector of XᵀX where u is one of the smaller XXᵀ
        leading = features.double().T @ eigenvectors(second_moment(features.T), number)
    return torch.linalg.qr(leading).Q.float().contiguous()


def check_number(number: int, images: int, width: int) -> None:
    """
    raises   CompressionError where `images` embeddings of `width` numbers don't have so many directions
    """
    if not 0 < number <= min(images, width):
        raise CompressionError(
            f"EMBEDDING.DIM is {number}; {how_many(images, 'training image')} with embeddings of {width} numbers "
            f"allow 1 to {min(images, width)}, and 0 leaves embeddings as they are"
        )


def second_moment(x: Tensor) -> Tensor:
    """(N, E) -> (E, E) float64: the sum of all rows' outer products with themselves."""
    total = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for rows in x.split(max(1, CHUNK_BYTES // (8 * x.shape[1]))):
        rows = rows.double()
        total.addmm_(rows.T, rows)
    return total


def eigenvectors(symmetric: Tensor, number: int) -> Tensor:
    return torch.linalg.eigh(symmetric).eigenvectors[:, -number:].flip(1)


def project(features: Tensor, directions: Tensor) -> Tensor:
    """(N, E) and (E, d) -> (N, d) float32, never in TF32 or half precision."""
    return inner_products(features, directions.T)


def save_directions(path: Path, learned_from: dict, directions: Tensor) -> None:
    """
    learned_from   plain values that say which embeddings the directions belong to
    raises         CheckpointError where the disk refuses
    """
    save_checkpoint(path, {"learned_from": learned_from, "directions": directions.cpu()})


def load_directions(path: Path, learned_from: dict) -> Tensor | None:
    """The directions in a file of `save_directions`, if there is one and it says all that `learned_from` says.

    raises   CheckpointError where the file is damaged
    """
    if not path.exists():
        return None
    try:
        saved = read_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. Without {path.name}, the directions are learned again") from None
    found = saved.get("learned_from", {})
    return saved["directions"] if all(found.get(key) == value for key, value in learned_from.items()) else None
