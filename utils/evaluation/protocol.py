"""What an evaluation asks of a protocol. Those of data/records.py have it, and so may anybody's own."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class AnyTrial(Protocol):
    @property
    def query(self) -> np.ndarray:
        """(Q,) int64: rows of the records that are searched for."""

    @property
    def gallery(self) -> np.ndarray:
        """(G,) int64: rows of those that are searched; of equal ones, the earlier comes first."""


class AnyProtocol(Protocol):
    """A gallery image is ignored by a query where query_ignores[query] == gallery_group[gallery]."""

    @property
    def name(self) -> str: ...

    @property
    def trials(self) -> Sequence[AnyTrial]: ...

    @property
    def counts(self) -> str:
        """What CMC counts: "identities" or "images"."""

    @property
    def query_ignores(self) -> np.ndarray:
        """(records,) int64; -1 ignores none."""

    @property
    def gallery_group(self) -> np.ndarray:
        """(records,) int64, 0 at least."""
