"""What chooses the best epoch."""

import torch
from yacs.config import CfgNode

from assembly.embedding import embed_records
from data.records import Benchmark, Record
from models.network import Network
from utils.evaluation.evaluator import evaluate_protocol
from utils.stop import StopRequest
from utils.training.distributed import Ranks
from utils.training.run import LOG


class Validation:
    """Figures of training identities that were held out, or of test data where that was asked for; false without both.

    held_out   records of the identities that are not trained on
    """

    def __init__(self, cfg: CfgNode, benchmark: Benchmark, held_out: list[Record]):
        self.cfg, self.records, self.protocol = cfg, held_out, None
        if cfg.SOLVER.CHOOSE_BEST_ON_TEST_DATA:
            self.records, self.protocol = benchmark.test, benchmark.protocol(benchmark.default_protocols()[0])
        elif held_out:
            self.protocol = benchmark.validation(held_out)

    def __bool__(self) -> bool:
        return self.protocol is not None

    def figures(
        self, model: Network, device: torch.device, ranks: Ranks, stop: StopRequest
    ) -> dict[str, float] | None:
        """Rank-1 and mAP; of several processes, the first has them. None where any process was asked to stop."""
        if self.cfg.SOLVER.CHOOSE_BEST_ON_TEST_DATA:
            LOG.warning("choosing the best epoch by TEST data, as asked: the figures of best.pth are inflated")
        features = embed_records(model, self.records, self.cfg, device, ranks, stop)
        if features is None or not ranks.first:
            return None if features is None else {}
        assert self.protocol is not None  # or it is false
        weighting = next(iter(model.weightings))  # the reported one
        result = evaluate_protocol(
            features, [record.identity for record in self.records], self.protocol, weighting=weighting,
            scale=model.column_scale(weighting), flip=self.cfg.TEST.FLIP,
        )
        return {f"validation_{name}": result["mean"][name] for name in ("rank1", "mAP")}
