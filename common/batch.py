"""What data, networks and losses hand to one another: a Batch of streams of images, and an Output of named rows.

One letter per axis: B rows, V embeddings of each row, H×W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Kind(NamedTuple):
    """What the rows of a stream have in common."""

    infrared: bool
    view: int = 0  # 0: images as they are; 1, 2, ...: shown once more, changed in another way
    shape: bool = False  # body-shape images, row by row those of the stream of images of that modality and view


class Stream(NamedTuple):
    """Images of one kind."""

    images: Tensor  # (B_s, 3, H, W), normalised
    labels: Tensor  # (B_s,) int64: identity
    kind: Kind
    cameras: Tensor | None = None  # (B_s,) int64: from 0, in the order of the training images' cameras; None: not known


@dataclass(frozen=True)
class Rows:
    """Whose rows they are, those of one stream after those of the other.

    sizes    rows of each stream; known without a look at the device
    kinds    of each stream
    shares   of several processes whose streams differ in size, the sizes of each; None: all are like this one
    """

    labels: Tensor  # (B,) int64: identity
    sizes: Sequence[int]
    kinds: Sequence[Kind]
    shares: Sequence[Sequence[int]] | None = None

    @cached_property
    def infrared(self) -> Tensor:
        """(B,) bool."""
        return self.by_stream([kind.infrared for kind in self.kinds])

    @cached_property
    def view(self) -> Tensor:
        """(B,) int64."""
        return self.by_stream([kind.view for kind in self.kinds])

    def by_stream(self, values: Sequence) -> Tensor:
        """(B,): each row has its stream's value."""
        device = self.labels.device
        return torch.cat([torch.full((size,), value, device=device) for size, value in zip(self.sizes, values)])

    def take(self, x: Tensor, streams: Sequence[int], dim: int) -> Tensor:
        """The rows of some of the streams, which stand along `dim`."""
        parts = x.split([*self.sizes], dim)
        return torch.cat([parts[i] for i in streams], dim) if len(streams) != 1 else parts[streams[0]]


class Pasted(NamedTuple):
    """Of a mixed batch, in which each image has a rectangle of another one."""

    labels: Tensor  # (B,) int64: identity of what is pasted, in the order of the rows
    kept: Tensor    # () float32: the share of an image outside the rectangle


@dataclass(frozen=True)
class Batch:
    """The images of a training step. Visible streams stand before infrared ones, body shapes after both.

    streams   of any size: one may be empty
    shares    as in `Rows`
    pasted    None: the images are whole
    """

    streams: Sequence[Stream]
    shares: Sequence[Sequence[int]] | None = None
    pasted: Pasted | None = None

    @property
    def rows(self) -> Rows:
        """Those of the images; body shapes are further sights of the same rows."""
        streams = [stream for stream in self.streams if not stream.kind.shape]
        return Rows(
            torch.cat([stream.labels for stream in streams]),
            [len(stream.labels) for stream in streams],
            [stream.kind for stream in streams],
            self.shares,
        )

    def images(self, infrared: bool | None = None, shape: bool = False) -> Tensor:
        """(B, 3, H, W): all images in the order of the rows, or those of one modality; or likewise the body shapes."""
        found = [s.images for s in self.streams if s.kind.shape == shape and infrared in (None, s.kind.infrared)]
        return torch.cat(found) if len(found) != 1 else found[0]

    @property
    def cameras(self) -> Tensor:
        """(B,) int64, in the order of the rows; 0 where they aren't known."""
        return torch.cat([s.labels.new_zeros(len(s.labels)) if s.cameras is None else s.cameras for s in self.streams])

    def __len__(self) -> int:
        """The number of images, body shapes among them."""
        return sum(len(stream.labels) for stream in self.streams)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every tensor changed."""
        return replace(self, streams=[
            Stream(change(s.images), change(s.labels), s.kind, None if s.cameras is None else change(s.cameras))
            for s in self.streams
        ], pasted=self.pasted and Pasted(*map(change, self.pasted)))

    def to(self, device: torch.device, layout: torch.memory_format = torch.channels_last) -> "Batch":
        """On the device, without waiting for it, with images in memory of that layout."""
        there = self.map(lambda t: t.to(device, non_blocking=True))
        return there.map(lambda t: t.contiguous(memory_format=layout) if t.ndim == 4 else t)

    def pin_memory(self) -> "Batch":
        return self.map(Tensor.pin_memory)


class Output:
    """What a network returns in training: named tensors (V, B, ...) with the rows of a batch.

    pooled, neck (V, B, D) and logits (V, B, classes) are common; what only one method has is a further name. Taken from
    others (`where`, `gathered`), an entry is computed when it is first asked for.

    of_all   entries that depend on the rows of all processes together, by what computes them of an output

        output = Output(batch.rows, pooled=pooled, logits=logits)
        output.logits, output.labels, output.infrared, output.where(infrared=True).pooled

    common   by name, tensors that belong to no row, such as a weight that a loss looks at: each process has its own,
             and gathering leaves them as they are
    """

    def __init__(
        self, rows: Rows, /, common: Mapping[str, Tensor] | None = None,
        of_all: Mapping[str, Callable[["Output"], Tensor]] | None = None, **entries: Tensor,
    ):
        self.rows, self.entries, self.common, self.of_all = rows, entries, common or {}, of_all or {}
        self._source: Callable[[str], Tensor] | None = None
        self._gradient: Callable[[Tensor, str], Tensor] | None = None

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_") or name in ("entries", "common", "of_all"):  # by a copy that isn't filled yet
            raise AttributeError(name)
        if name in self.common:
            return self.common[name]
        if name not in self.entries:
            if name in self.of_all:
                self.entries[name] = self.of_all[name](self)
                return self.entries[name]
            if self._source is None:
                raise AttributeError(f"the network's output has no {name}; it has {', '.join(self.entries)}")
            self.entries[name] = self._source(name)
        return self.entries[name]

    @property
    def labels(self) -> Tensor:
        """(B,) int64."""
        return self.rows.labels

    @property
    def infrared(self) -> Tensor:
        """(B,) bool."""
        return self.rows.infrared

    def where(self, infrared: bool | None = None, view: int | None = None) -> "Output":
        """The rows of one modality, of one view, or of both."""
        rows = self.rows
        streams = [
            i for i, kind in enumerate(rows.kinds)
            if infrared in (None, kind.infrared) and view in (None, kind.view)
        ]
        part = Output(Rows(
            rows.take(rows.labels, streams, dim=0), [rows.sizes[i] for i in streams], [rows.kinds[i] for i in streams],
        ), self.common)
        part._source = lambda name: rows.take(getattr(self, name), streams, dim=1)
        return part

    def gathered(self, gather: Callable[[Tensor, int], Tensor]) -> "Output":
        """The output of all processes together: each stream's rows one process after the other; where the processes'
        streams differ in size, each process's streams one process after the other.

        gather   takes rows and the axis along which they stand, returns those of all processes, alike in shape
        """
        rows = self.rows

        def of_all(x: Tensor, dim: int) -> Tensor:
            if rows.shares is None:
                return torch.cat([gather(part, dim) for part in x.split([*rows.sizes], dim)], dim)
            numbers = [*map(sum, rows.shares)]
            most = max(numbers)
            missing = x.new_zeros([*x.shape[:dim], most - x.shape[dim], *x.shape[dim + 1:]])
            parts = gather(torch.cat([x, missing], dim), dim).split(most, dim)
            return torch.cat([part.narrow(dim, 0, number) for part, number in zip(parts, numbers)], dim)

        labels = of_all(rows.labels, 0)
        if rows.shares is None:
            sizes, kinds = [size * len(labels) // len(rows.labels) for size in rows.sizes], rows.kinds
        else:
            sizes, kinds = [size for share in rows.shares for size in share], [*rows.kinds] * len(rows.shares)
        processes = len(rows.shares) if rows.shares else len(labels) // len(rows.labels)
        whole = Output(Rows(labels, sizes, kinds), self.common, self.of_all)
        whole._source = lambda name: of_all(getattr(self, name), 1)
        # The gradients by a row that the processes found are summed on the way, and all found the same.
        whole._gradient = lambda loss, name: of_all(self.gradient(loss, name), 1) / processes
        return whole

    def gradient(self, loss: Tensor, name: str) -> Tensor:
        """d loss / d entry, (V, B, D), for weights that a total takes from its parts' gradients; itself a constant.

        loss   made of what the network has computed from that very entry
        """
        if self._gradient is not None:
            return self._gradient(loss, name)
        return torch.autograd.grad(loss, self.entries[name], retain_graph=True)[0]
