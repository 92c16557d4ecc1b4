"""torch.compile of a training pass, where the machine can compile at all."""

import torch
from torch import nn

from utils.training.run import LOG, first_line


def compile_training_pass(model: nn.Module, mode: str, device: torch.device, backend: str = "inductor") -> bool:
    """Compile what a call of the network does, when it is first called; embeddings and checkpoints stay as they are.

    What torch cannot compile runs as it is written, and so does everything on a machine without a compiler, which is
    one warning.

    mode      default, or reduce-overhead: with CUDA graphs, which inductor alone has
    backend   of torch.compile
    returns   whether anything will be compiled
    """
    reason = why_nothing_compiles(device, backend)
    if reason:
        LOG.warning("warning: nothing is compiled here, and the network runs as it is written: %s", reason)
        return False
    torch._dynamo.config.suppress_errors = True  # a region that fails runs as it is written
    model.compile(mode=mode if backend == "inductor" else None, backend=backend)
    return True


def why_nothing_compiles(device: torch.device, backend: str = "inductor") -> str:
    """In a few words; "" where an addition could be compiled for the device."""
    try:
        add = torch.compile(lambda x: x + 1, backend=backend)
        with torch._dynamo.config.patch(suppress_errors=False):
            add(torch.ones(8, device=device))
    except Exception as error:  # noqa: BLE001 - of dynamo, inductor, triton or the compiler, each of its own kind
        return first_line(error)
    return ""
