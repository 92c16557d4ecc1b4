"""Batches and outputs that tests write down."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.batch import Batch, Kind, Output, Rows, Stream


def two_streams(visible: Tensor, infrared: Tensor, labels: list[int] | None = None) -> Batch:
    """A stream of each modality.

    labels   of the visible images, then of the infrared ones, or of each alike; None: all the same person
    """
    sizes = [len(visible), len(infrared)]
    labels = torch.tensor(labels or [0] * sum(sizes))
    parts = [labels, labels] if len(labels) == sizes[0] == sizes[1] else labels.split(sizes)
    return Batch([Stream(visible, parts[0], Kind(False)), Stream(infrared, parts[1], Kind(True))])


def batch_of(streams: Sequence[Tensor], labels: list[int]) -> Batch:
    """Views of the same visible images, then infrared ones; the labels are those of each stream."""
    kinds = [*(Kind(False, view) for view in range(len(streams) - 1)), Kind(True)]
    return Batch([Stream(images, torch.tensor(labels), kind) for images, kind in zip(streams, kinds)])


def rows_of(labels: Tensor, infrared: Tensor, views: int = 1) -> Rows:
    """Rows in any order of the modalities: neighbours of one kind are a stream.

    views   equal parts of the visible rows, where these come first
    """
    kinds, sizes = [], []
    for is_infrared in infrared.tolist():
        if kinds and kinds[-1].infrared == is_infrared:
            sizes[-1] += 1
        else:
            kinds.append(Kind(is_infrared))
            sizes.append(1)
    if views > 1:
        share = sizes[0] // views
        kinds = [*(Kind(False, view) for view in range(views)), *kinds[1:]]
        sizes = [share] * views + sizes[1:]
    return Rows(labels, sizes, kinds)


def output_of(labels: Tensor, infrared: Tensor, views: int = 1, **entries: Tensor) -> Output:
    return Output(rows_of(labels, infrared, views), **entries)
