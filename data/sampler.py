"""Which images make a batch: P identities, K images of each in both modalities (docs/method.md section 8)."""

from collections.abc import Sequence

import numpy as np

from data.records import DataError, Record


class IdentitySampler:
    """Identity-balanced batches from both modalities, each a pure function of (seed, epoch, step).

    A batch holds P different identities; of each, K visible and K infrared images, drawn with replacement and adjacent.
    The identities stand in the same order in both modalities.

    len(sampler)   batches in an epoch: max(visible images, infrared images) // (P · K) + 1
    raises         DataError where there are fewer than P identities
    """

    def __init__(self, records: Sequence[Record], identities: int, images: int, seed: int):
        self.count, self.images, self.seed = identities, images, seed
        self.identities = sorted({record.identity for record in records})
        if identities > len(self.identities):
            raise DataError(
                f"a batch wants {identities} identities and the training set has {len(self.identities)}: "
                "lower SOLVER.IDENTITIES"
            )
        rows = {False: {i: [] for i in self.identities}, True: {i: [] for i in self.identities}}
        for row, record in enumerate(records):
            rows[record.infrared][record.identity].append(row)
        self.visible = [np.array(rows[False][i]) for i in self.identities]
        self.infrared = [np.array(rows[True][i]) for i in self.identities]
        largest = max(sum(map(len, self.visible)), sum(map(len, self.infrared)))
        self.length = largest // (identities * images) + 1

    def __len__(self) -> int:
        return self.length

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of visible records, rows of infrared records and labels (0 to identities - 1), (P·K,) each."""
        generator = np.random.default_rng((self.seed, epoch, step))
        chosen = generator.choice(len(self.identities), self.count, replace=False)
        visible = np.concatenate([generator.choice(self.visible[i], self.images) for i in chosen])
        infrared = np.concatenate([generator.choice(self.infrared[i], self.images) for i in chosen])
        return visible, infrared, chosen.repeat(self.images)
