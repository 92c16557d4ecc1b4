"""Mixed batches: each image gets a rectangle of another one, of the other modality."""

from dataclasses import replace

import numpy as np
import torch

from common.batch import Batch, Kind, Pasted, Stream


def mixed(batch: Batch, chance: float, seed: tuple[int, ...], rank: int = 0) -> Batch:
    """The batch, mixed or as it is.

    Whether it is mixed, and where the rectangle lies, is the same on every process; each mixes its own rows. The
    rectangle has √(1 - λ) of each side, λ even in 0 to 1, about an even center, and is cut off at the borders. Row r of
    each stream gets row π(r) of the stream of the other modality; body shapes the same rectangle of the same rows.

    batch    of streams in pairs, of equally many rows
    chance   that it is mixed
    seed     of the batch
    """
    drawn = np.random.default_rng(seed)
    if drawn.random() >= chance:
        return batch
    height, width = batch.streams[0].images.shape[2:]
    side = (1 - drawn.random()) ** 0.5
    rows, columns = (within(drawn, side, most) for most in (height, width))
    order = torch.from_numpy(np.random.default_rng((*seed, rank)).permutation(len(batch.streams[0].labels)))
    streams = {stream.kind: stream for stream in batch.streams}

    def pasted(kind: Kind) -> Stream:
        return streams[kind._replace(infrared=not kind.infrared)]

    def change(stream: Stream) -> Stream:
        images = stream.images.clone()
        images[:, :, rows, columns] = pasted(stream.kind).images[order][:, :, rows, columns]
        return stream._replace(images=images)

    outside = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    labels = [pasted(kind).labels[order] for kind in batch.rows.kinds]
    return replace(
        batch, streams=[change(stream) for stream in batch.streams],
        pasted=Pasted(torch.cat(labels), torch.tensor(outside, dtype=torch.float32)),
    )


def within(drawn: np.random.Generator, side: float, most: int) -> slice:
    """That part of a side of `most` pixels, about an even center, as far as it lies inside."""
    center, half = int(drawn.integers(most)), int(side * most) // 2
    return slice(max(center - half, 0), min(center + half, most))
