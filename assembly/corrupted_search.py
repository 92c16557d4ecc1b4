"""Protocols on test images of which the visible ones are corrupted (docs/robustness.md)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from assembly.embedding import compressed, described, embed_records, embed_versions
from assembly.recipe import weightings_of
from data.pixels import open_image
from data.records import Protocol, Record
from models.network import Network
from utils.evaluation.evaluator import EvaluationError, Versions, evaluate_protocol


class CorruptedSearch:
    """Scores by the same features, but for those of corrupted images.

    Only images that a trial needs are embedded, infrared ones once.

    model        on the device, in evaluation mode
    records      of the test
    directions   by weighting, where EMBEDDING.DIM compresses the embeddings; else {}
    trained_on   the name of the network's data set where that is another one
    raises       EvaluationError for a protocol that searches within one modality
    """

    def __init__(
        self, model: Network, records: Sequence[Record], protocols: Sequence[Protocol], cfg: CfgNode,
        device: torch.device, directions: dict[str, Tensor], trained_on: str = "",
    ):
        self.model, self.records, self.protocols, self.cfg, self.device = model, records, protocols, cfg, device
        self.directions, self.trained_on = directions, trained_on
        self.infrared = np.array([record.infrared for record in records])
        needed = needed_rows(protocols, self.infrared)
        self.visible = needed[~self.infrared[needed]]
        self.features, self.versions = self.embedded(needed, open_image)

    def embedded(self, rows: np.ndarray, read: Callable[..., np.ndarray]) -> tuple[Tensor, Versions | None]:
        """Features (N, E) of all N records, zeros but for these rows, and likewise what re-ranking needs beside them.

        read   what reads an image, called as `open_image`
        """
        chosen = [self.records[row] for row in rows]
        features = self.spread(rows, embed_records(self.model, chosen, self.cfg, self.device, read=read))
        found = embed_versions(self.model, chosen, self.cfg, self.device, read=read)
        if found is None:
            return features, None
        return features, Versions(self.infrared, torch.stack([self.spread(rows, x) for x in found.features]))

    def spread(self, rows: np.ndarray, features: Tensor) -> Tensor:
        return features.new_zeros(len(self.records), features.shape[1]).index_copy_(0, self.of(rows), features)

    def of(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(self.device)

    def clean(self) -> list[dict]:
        """What `evaluate_protocol` returns, for every weighting and protocol."""
        return self.scores(self.features, self.versions)

    def corrupted(self, read: Callable[..., np.ndarray]) -> list[dict]:
        """The same with visible images as they are read here."""
        features, versions = self.embedded(self.visible, read)  # the versions are of visible rows anyhow
        rows = self.of(self.visible)
        return self.scores(self.features.index_copy(0, rows, features[rows]), versions)

    @torch.inference_mode()
    def scores(self, features: Tensor, versions: Versions | None) -> list[dict]:
        results, identities = [], [record.identity for record in self.records]
        for weighting in weightings_of(self.model, self.cfg):
            scale: Tensor | None = self.model.column_scale(weighting).to(self.device)
            embeddings, shown = features, versions
            if self.directions:
                directions = self.directions[weighting].to(self.device)
                embeddings, shown = compressed(features, versions, scale, directions)
                scale = None
            results += [
                evaluate_protocol(
                    embeddings, identities, protocol, scale=scale, weighting=described(weighting, self.cfg),
                    flip=self.cfg.TEST.FLIP, rerank=self.cfg.TEST.RERANK, versions=shown,
                    aim=(self.cfg.TEST.AIM.K1, self.cfg.TEST.AIM.K2), trained_on=self.trained_on,
                )
                for protocol in self.protocols
            ]
        return results


def needed_rows(protocols: Sequence[Protocol], infrared: np.ndarray) -> np.ndarray:
    """Rows of the images that any trial needs, ascending.

    raises   EvaluationError
    """
    for protocol in protocols:
        for trial in protocol.trials:
            sides = [np.unique(infrared[rows]) for rows in (trial.query, trial.gallery)]
            if any(len(side) > 1 for side in sides) or sides[0] == sides[1]:
                raise EvaluationError(
                    f"{protocol.name} doesn't search one modality for the other, and corruptions are of the visible "
                    "side alone: choose another --protocol"
                )
    return np.unique(np.concatenate([
        rows for protocol in protocols for trial in protocol.trials for rows in (trial.query, trial.gallery)
    ]))
