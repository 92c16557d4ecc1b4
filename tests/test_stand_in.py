"""What reads values, on a stand-in for a device; and both kinds of fake device, which notice what a GPU would."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_device import CPU, CUDA, NEW_TORCH, NoWaiting, StandIn, TwoDevices, Waited, faked
from torch import nn

from assembly import gallery as searching
from data.records import Protocol, Trial
from utils.evaluation.distances import distance_counts
from utils.evaluation.evaluator import embed_images, evaluate_protocol
from utils.retrieval.compress import principal_directions, project
from utils.retrieval.nearest import search_exact

pytestmark = NEW_TORCH


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def random_protocol(images=60):
    """Embeddings, identities and a protocol of two trials, in which some gallery images are ignored."""
    rows = np.arange(images)
    trials = tuple(Trial(query=rows[::2], gallery=np.roll(rows[1::2], shift)) for shift in (0, 7))
    protocol = Protocol("drawn", trials, "identities", np.where(rows % 3, -1, rows % 4), rows % 4)
    return drawn(images, 12), (rows * 7 % 11).tolist(), protocol


def evaluated(device):
    features, identities, protocol = random_protocol()
    scale = torch.tensor([0.0] * 4 + [1.0] * 8)  # as the network gives it: on the CPU
    features, results = features.to(device), []
    for rerank, counts in (("none", "identities"), ("none", "images"), ("k_reciprocal", "identities")):
        protocol = Protocol(**{**vars(protocol), "counts": counts})
        results.append(evaluate_protocol(
            features, identities, protocol, flip=False, weighting="neck", scale=scale, rerank=rerank, per_query=True
        ))
    infrared = [row % 2 == 0 for row in range(len(identities))]
    results.append(distance_counts(features, identities, infrared, weighting="neck", scale=scale.to(device), block=16))
    return results


def embedded(device):
    loaders = [
        ([(drawn(3, 3, 4, 2), torch.tensor([4, 0, 2]))], False), ([(drawn(2, 3, 4, 2), torch.tensor([1, 3]))], True),
    ]
    features = embed_images(lambda images, infrared: images.mean(dim=(2, 3)), loaders, [*"abcde"], device)
    assert features.device == device
    return features.tolist()


def compressed(device):
    found = []
    for images in (20, 5):
        features = drawn(images, 12).to(device)
        found.append(project(features, principal_directions(features, 4)).cpu().tolist())
    return found


def searched(device):
    matrix, current = drawn(40, 12).numpy(), np.arange(40) % 5 > 0
    return [x.tolist() for x in search_exact(drawn(3, 12).to(device), matrix, current, top=4, chunk_bytes=600)]


def found_by_search(device):
    """As scripts/search.py embeds, compressed and not; beside the network nothing waits."""
    scale, rows = torch.tensor([0.0] * 4 + [2.0] * 8), []
    network = SimpleNamespace(embed=lambda images, infrared, flip: images.flatten(1))
    for directions in (None, drawn(8, 3)):
        embedder = searching.Embedder(network, scale, directions, False, device)
        with NoWaiting():
            rows.append(embedder(drawn(5, 3, 2, 2), False))
        assert rows[-1].device == device and rows[-1].shape == (5, embedder.numbers)
    return [x.tolist() for x in rows]


@pytest.mark.parametrize("what", [evaluated, embedded, compressed, searched, found_by_search])
def test_what_reads_values_gives_those_of_the_cpu(what):
    expected = what(CPU)
    with StandIn():
        found = what(CUDA)
    assert found == expected


def test_the_stand_in_refuses_what_a_device_does():
    with StandIn():
        x = torch.arange(3, device=CUDA)
        assert x.device == CUDA and x.sum().item() == 3 and x[np.array([2])].tolist() == [2] and int(x.cpu()[1]) == 1
        with pytest.raises((TypeError, RuntimeError)):
            x.numpy()


WAITING = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0]),
    "if": lambda x: 1 if x.any() else 0,
    "tolist": lambda x: x.tolist(),
    "equal": lambda x: torch.equal(x, x + 1),
    "allclose": lambda x: torch.allclose(x, x + 1),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "mask_written": lambda x: x.index_put_((x > 0,), x),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().bincount(),
    "repeated": lambda x: x.repeat_interleave(x.long()),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copied_out": lambda x: torch.empty(3).copy_(x),
    "copied_in": lambda x: x.copy_(torch.empty(3)),
    "listed": lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "new_tensor": lambda x: x + x.new_tensor([1.0, 2.0, 3.0]),
    "indexed": lambda x: x[[0, 2]],
    "indexed_by_array": lambda x: x[np.array([0, 2])],
}
NOT_WAITING = {
    "made_there": lambda x: x + torch.arange(3, device=x.device) + x.new_zeros(3),
    "filled": lambda x: torch.full((3,), 2.0, device=x.device),
    "number": lambda x: x * torch.tensor(2.0) + 1,
    "masked": lambda x: torch.where(x > 0, 1.0, -1.0).masked_fill(x > 1, torch.inf),
    "indexed_there": lambda x: x[torch.arange(2, device=x.device)] + x[:2],
    "copied": lambda x: torch.empty(3).copy_(x, non_blocking=True),
    "moved": lambda x: torch.empty(3).to(x.device, non_blocking=True),
    "drawn": lambda x: x.new_empty(3).bernoulli_(0.5) + torch.nn.functional.dropout(x),
}


@pytest.mark.parametrize("name", WAITING)
def test_waiting_is_noticed(name):
    with faked():
        x = torch.ones(3, device=CUDA)
        with pytest.raises(Waited):
            WAITING[name](x)


@pytest.mark.parametrize("name", NOT_WAITING)
def test_what_does_not_wait_passes(name):
    with faked():
        NOT_WAITING[name](torch.ones(3, device=CUDA))


MIXING = {
    "made_here": lambda x: x + torch.arange(3),
    "joined": lambda x: torch.cat([x, torch.zeros(3)]),
    "multiplied": lambda x: x @ torch.eye(3),
    "indexed": lambda x: torch.zeros(3)[x.long()],
    "attribute": lambda x: ForgotItsBuffer()(x),
}


class ForgotItsBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.ones(3)

    def forward(self, x):
        return self._apply(lambda y: y.to(x.device)).factor * x


@pytest.mark.parametrize("mode, error", [(faked, (RuntimeError, Waited)), (StandIn, TwoDevices)])
@pytest.mark.parametrize("name", MIXING)
def test_two_devices_are_noticed(name, mode, error):
    with mode():
        x = torch.ones(3, device=CUDA)
        with pytest.raises(error):
            MIXING[name](x)
