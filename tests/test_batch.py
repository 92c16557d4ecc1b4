"""Batches of streams, and outputs whose rows keep their streams' kinds."""

import pytest
import torch
from batches import output_of

from common.batch import Batch, Kind, Output, Stream

KINDS = [Kind(False), Kind(False, 1), Kind(True)]


def batch():
    """Two views of two visible images, and three infrared ones."""
    return Batch([
        Stream(torch.full((size, 3, 2, 1), float(i)), torch.arange(size) + 10 * i, kind)
        for i, (size, kind) in enumerate(zip((2, 2, 3), KINDS))
    ])


def test_rows_stand_in_the_order_of_the_streams():
    rows, images = batch().rows, batch().images()
    assert len(batch()) == 7 and images.shape == (7, 3, 2, 1)
    assert images[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert rows.labels.tolist() == [0, 1, 10, 11, 20, 21, 22]
    assert rows.infrared.tolist() == [False] * 4 + [True] * 3 and rows.view.tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert batch().images(infrared=True)[:, 0, 0, 0].tolist() == [2, 2, 2]


def test_of_an_output_the_rows_of_a_modality_or_view_are_taken():
    output = Output(batch().rows, pooled=torch.arange(14.0).view(1, 7, 2), logits=torch.zeros(3, 7, 5))
    infrared, plain = output.where(infrared=True), output.where(infrared=False, view=0)
    assert infrared.labels.tolist() == [20, 21, 22] and infrared.pooled.tolist() == [[[8, 9], [10, 11], [12, 13]]]
    assert plain.labels.tolist() == [0, 1] and plain.logits.shape == (3, 2, 5) and not plain.infrared.any()
    assert output.where(infrared=False).labels.tolist() == [0, 1, 10, 11]
    assert output.where(infrared=True).where(view=0).pooled.equal(infrared.pooled)


def test_each_streams_rows_are_gathered_for_themselves():
    """Two processes, the other of which has the same rows."""
    asked = []

    def gather(rows, dim):
        asked.append(rows.shape)
        return torch.cat([rows, rows], dim)

    output = Output(batch().rows, pooled=torch.arange(14.0).view(1, 7, 2), unread=torch.zeros(1, 7, 1))
    whole = output.gathered(gather)
    assert whole.labels.tolist() == [0, 1, 0, 1, 10, 11, 10, 11, 20, 21, 22, 20, 21, 22]
    assert whole.pooled[0, :, 0].tolist() == [0, 2, 0, 2, 4, 6, 4, 6, 8, 10, 12, 8, 10, 12]
    assert whole.where(infrared=True).pooled.shape == (1, 6, 2)
    assert len(asked) == 6  # labels and pooled; what no loss reads is not sent around


def test_what_a_network_does_not_return_is_named_with_what_it_does():
    output = Output(batch().rows, pooled=torch.zeros(1, 7, 2))
    with pytest.raises(AttributeError, match="the network's output has no masks; it has pooled"):
        _ = output.masks


def test_a_batch_goes_to_a_device_in_channels_last_memory():
    moved = batch().to(torch.device("cpu"))
    assert all(stream.images.is_contiguous(memory_format=torch.channels_last) for stream in moved.streams)
    assert torch.equal(moved.images(), batch().images()) and moved.streams[1].kind == Kind(False, 1)


def test_processes_whose_streams_differ_in_size_are_gathered_whole():
    """One with two visible rows and an infrared one, one with two infrared rows alone."""
    shares, kinds = [[2, 1], [0, 2]], [Kind(False), Kind(True)]
    outputs = []
    for number, sizes in enumerate(shares):
        streams = [
            Stream(torch.zeros(size, 3, 1, 1), torch.arange(size) + 100 * number + 10 * kind.infrared, kind)
            for size, kind in zip(sizes, kinds)
        ]
        rows = Batch(streams, shares).to(torch.device("cpu")).rows
        outputs.append(Output(rows, pooled=rows.labels[None, :, None].float()))
    sent = []
    outputs[1].gathered(lambda x, dim: (sent.append(x), x.repeat(2, *[1] * (x.ndim - 1)))[1])  # its labels, filled up

    def gather(x, dim):
        assert x.shape[dim] == 3
        other = sent[0] if x.ndim == 1 else sent[0].float()[None, :, None]
        return torch.cat([x, other], dim)

    whole = outputs[0].gathered(gather)
    assert whole.labels.tolist() == [0, 1, 10, 110, 111] and whole.infrared.tolist() == [False, False, True, True, True]
    assert whole.pooled[0, :, 0].tolist() == whole.labels.tolist()
    assert whole.where(infrared=True).labels.tolist() == [10, 110, 111]
    assert whole.where(infrared=True).pooled[0, :, 0].tolist() == [10, 110, 111]


def test_what_belongs_to_no_row_is_handed_on_and_gradients_are_of_all_rows():
    pooled, weight = torch.randn(1, 4, 2, requires_grad=True), torch.ones(3)
    output = output_of(torch.tensor([5, 6, 5, 6]), torch.tensor([False, False, True, True]), pooled=pooled)
    output.common["columns"] = weight
    torch.testing.assert_close(output.gradient(output.pooled.square().sum(), "pooled"), 2 * pooled)
    whole = output.gathered(lambda rows, dim: torch.cat([rows, rows], dim))  # as of two processes with the same rows
    assert whole.where(infrared=True).columns is whole.columns is output.columns is weight
    torch.testing.assert_close(whole.gradient(whole.pooled.square().sum(), "pooled"), 2 * whole.pooled)
    with pytest.raises(AttributeError, match="the network's output has no masks; it has pooled"):
        _ = output.masks
