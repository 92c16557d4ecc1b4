"""Which images make a batch. A sampler is a plan: a pure function of (seed, epoch), the same in every process."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from common.words import how_many
from data.records import DataError, Record


class Part(NamedTuple):
    """Images of one modality in a batch."""

    rows: np.ndarray    # (B_s,) of the records
    labels: np.ndarray  # (B_s,) 0 to identities - 1


NONE = Part(np.empty(0, np.int64), np.empty(0, np.int64))  # of a modality that the records don't show


class Draw(NamedTuple):
    """The images of a batch."""

    visible: Part
    infrared: Part

    @property
    def identities(self) -> np.ndarray:
        """(P,) labels in the order in which they were drawn; at last those that the infrared part alone shows."""
        labels = np.concatenate([self.visible.labels, self.infrared.labels])
        return labels[np.sort(np.unique(labels, return_index=True)[1])]


class Sampler:
    """
    records      to draw from
    identities   P of a batch, different ones
    images       K of each of them and modality, unless the sampler is blind
    raises       DataError where there are fewer than P identities

    sampler.blind           whether the K images are of both modalities together
    sampler.in_pairs        whether it needs images of both modalities of each identity
    sampler.plan(epoch)     the batches of an epoch, in their order
    sampler.length(epoch)   how many they are
    sampler.announced(epoch)
                            as how many a schedule by update counts them
    """

    blind = in_pairs = False

    def __init__(self, records: Sequence[Record], identities: int, images: int, seed: int):
        self.count, self.images, self.seed = identities, images, seed
        self.identities = sorted({record.identity for record in records})
        if identities > len(self.identities):
            raise DataError(
                f"a batch wants {how_many(identities, 'identity', 'identities')} and the training set has "
                f"{len(self.identities)}: "
                "lower SOLVER.IDENTITIES"
            )
        rows: dict[bool, dict[int, list[int]]] = {kind: {i: [] for i in self.identities} for kind in (False, True)}
        for row, record in enumerate(records):
            rows[record.infrared][record.identity].append(row)
        self.visible = [np.array(rows[False][i], dtype=np.int64) for i in self.identities]
        self.infrared = [np.array(rows[True][i], dtype=np.int64) for i in self.identities]
        self.shown = [any(map(len, of)) for of in (self.visible, self.infrared)]  # false of a modality without images

    def plan(self, epoch: int) -> list[Draw]:
        return [self.batch(epoch, step) for step in range(self.length(epoch))]

    def length(self, epoch: int) -> int:
        raise NotImplementedError

    def announced(self, epoch: int) -> int:
        return self.length(epoch)

    def batch(self, epoch: int, step: int) -> Draw:
        raise NotImplementedError


class WithReplacement(Sampler):
    """K images of each identity and modality, drawn with replacement and adjacent (docs/method.md section 8).

    An epoch has max(visible images, infrared images) // (P · K) + 1 batches. The identities stand in the same order in
    both modalities.
    """

    def length(self, epoch: int) -> int:
        largest = max(sum(map(len, self.visible)), sum(map(len, self.infrared)))
        return largest // (self.count * self.images) + 1

    def announced(self, epoch: int) -> int:
        """Without the last one, which the authors' loaders make but don't count."""
        return max(1, self.length(epoch) - 1)

    def batch(self, epoch: int, step: int) -> Draw:
        generator = np.random.default_rng((self.seed, epoch, step))
        chosen = generator.choice(len(self.identities), self.count, replace=False)
        labels = chosen.repeat(self.images)
        return Draw(*(
            Part(np.concatenate([self.draw(generator, rows[i]) for i in chosen]), labels) if shown else NONE
            for rows, shown in zip((self.visible, self.infrared), self.shown)
        ))

    def draw(self, generator: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        """K of an identity's rows in one modality."""
        return generator.choice(rows, self.images)


class Distinct(WithReplacement):
    """As `WithReplacement`, but the K images are different ones (docs/compared_methods.md, PMT).

    Of fewer than K all are taken, and the missing ones drawn again: how often two of them occur differs by one at most.
    """

    def draw(self, generator: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        rounds = -(-self.images // len(rows))
        return np.concatenate([generator.permutation(rows) for _ in range(rounds)])[:self.images]


class Chunks(Sampler):
    """Each image at most once an epoch, K of each identity and modality together (docs/compared_methods.md, MPANet).

    An identity gives min(visible images, infrared images) random ones of each modality, shuffled and cut into chunks of
    K; what is left over waits for another epoch. With fewer than K it gives one chunk, drawn with replacement where a
    modality has too few. A batch takes the next chunk of P different identities, evenly among those that have one left;
    the epoch ends where fewer than P do.
    """

    in_pairs = True

    def length(self, epoch: int) -> int:
        return len(self.plan(epoch))

    def batch(self, epoch: int, step: int) -> Draw:
        return self.plan(epoch)[step]

    def plan(self, epoch: int) -> list[Draw]:
        return planned(self, epoch)

    def chunks(self, generator: np.random.Generator, identity: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(visible rows, infrared rows), K each, for each chunk of an identity."""
        both = self.visible[identity], self.infrared[identity]
        fewest = min(map(len, both))
        if fewest < self.images:
            visible, infrared = (generator.choice(rows, self.images, replace=len(rows) < self.images) for rows in both)
            return [(visible, infrared)]
        number = fewest // self.images
        visible, infrared = (generator.permutation(rows)[:number * self.images] for rows in both)
        return [*zip(visible.reshape(number, -1), infrared.reshape(number, -1))]


class BlindChunks(Chunks):
    """Likewise, K images of each identity whatever their modality (docs/compared_methods.md, MCJA).

    All images of an identity, of both modalities, are shuffled and cut into chunks of K; with fewer than K they give
    one, drawn with replacement. So a batch has any mix of modalities, at times one alone.
    """

    blind, in_pairs = True, False

    def chunks(self, generator: np.random.Generator, identity: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(visible rows, infrared rows), K together, for each chunk of an identity."""
        visible, infrared = self.visible[identity], self.infrared[identity]
        rows, number = np.concatenate([visible, infrared]), (len(visible) + len(infrared)) // self.images
        if number:
            drawn = generator.permutation(rows)[:number * self.images].reshape(number, -1)
        else:
            drawn = generator.choice(rows, (1, self.images))
        return [(chunk[np.isin(chunk, visible)], chunk[np.isin(chunk, infrared)]) for chunk in drawn]


@lru_cache(maxsize=2)  # a loader reads ahead into the next epoch
def planned(sampler: Chunks, epoch: int) -> list[Draw]:
    generator = np.random.default_rng((sampler.seed, epoch))
    left = {i: sampler.chunks(generator, i) for i in range(len(sampler.identities))}
    batches = []
    while len(left) >= sampler.count:
        chosen = generator.choice([*left], sampler.count, replace=False)
        visible, infrared = zip(*(left[i].pop() for i in chosen))
        left = {i: chunks for i, chunks in left.items() if chunks}
        batches.append(Draw(*(
            Part(np.concatenate(rows), chosen.repeat([*map(len, rows)])) for rows in (visible, infrared)
        )))
    return batches


SAMPLERS = {"replacement": WithReplacement, "distinct": Distinct, "chunks": Chunks, "blind_chunks": BlindChunks}
