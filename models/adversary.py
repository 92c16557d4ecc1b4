"""What a network is trained against, by an optimiser of its own (docs/adding_a_method.md, section 7)."""

from collections.abc import Callable

from torch import Tensor, nn

from common.batch import Output

Learn = Callable[[Tensor], None]


class Adversary(nn.Module):
    """A module that judges a network's outputs; a network with one has it as `adversary`.

    It takes a step of its own in each batch, on the rows of all processes together, before the network's losses. They
    read what it says of each row as `output.judged`, which the network's `forward` names:

        Output(batch.rows, of_all={"judged": self.adversary.judge}, pooled=...)

    rate   of its optimiser, which is of the same kind as the network's; no schedule changes it
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def judge(self, output: Output, learn: Learn | None = None) -> Tensor:
        """
        output    of the network
        learn     takes this module's step, when it is given its loss, whose gradient must not reach the network;
                  None: no step is taken
        returns   (V, B, ...), whose gradient reaches the network alone
        """
        raise NotImplementedError


def value_of(old: Tensor, new: Tensor) -> Tensor:
    """The numbers of `old` with the gradient of `new`."""
    return old.detach() + (new - new.detach())
