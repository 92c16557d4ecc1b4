"""The steps of a network's adversary (models/adversary.py), inside those of the network."""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from yacs.config import CfgNode

from common.batch import Output
from models.adversary import Adversary
from utils.training.distributed import mean_over_ranks
from utils.training.optimizer import build_optimizer


class AdversarySteps:
    """
    adversary   on its device
    solver      the SOLVER section of the configuration
    """

    def __init__(self, adversary: Adversary, solver: CfgNode):
        self.adversary = adversary
        self.optimizer = build_optimizer([{"params": [*adversary.parameters()], "lr": adversary.rate}], solver)
        self.keep()

    def __call__(self, output: Output) -> dict[str, Tensor]:
        """One step, of all processes alike; from then on, the output has what the adversary said of it.

        output    of all processes
        returns   the adversary's loss, which is no part of the network's
        """
        losses: dict[str, Tensor] = {}

        def learn(loss: Tensor) -> None:
            losses["adversary"] = loss.detach()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            mean_over_ranks([parameter.grad for group in self.optimizer.param_groups for parameter in group["params"]])
            self.optimizer.step()

        output.entries["judged"] = self.adversary.judge(output, learn)
        return losses

    def keep(self) -> None:
        """Remember the adversary and its optimiser as they are."""
        state = self.adversary.state_dict(), self.optimizer.state_dict()
        self.kept = tree_map_only(Tensor, torch.clone, state)

    def restore(self) -> None:
        """To what was remembered last."""
        weights, momentum = self.kept
        self.adversary.load_state_dict(weights)
        self.optimizer.load_state_dict(momentum)


def adversary_steps(adversary: Adversary | None, solver: CfgNode) -> AdversarySteps | None:
    """None of a network that has no adversary."""
    return None if adversary is None else AdversarySteps(adversary, solver)
