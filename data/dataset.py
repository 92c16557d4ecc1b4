"""Records -> tensors: whole training batches, and single images for the test; and the list of data sets."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.cache import ImageCache
from data.files import absolute, archive_of, nearby, shows
from data.llcm import LLCM
from data.records import Benchmark, DataError, LayoutError, Record
from data.regdb import RegDB
from data.sampler import IdentitySampler
from data.sysu import SYSU
from data.transforms import TrainTransform, eval_transform, open_image


def open_benchmark(name: str, root: str | Path, split: int = 1) -> Benchmark:
    """The data set of that name in the folder `root`; `split` is RegDB's.

    raises   DataError, of a folder that isn't laid out as the data set with a hint which one may have been meant
    """
    try:
        return read_benchmark(name, root, split)
    except LayoutError as error:
        raise LayoutError(f"{error}{hint(name, absolute(root))}") from None


def read_benchmark(name: str, root: str | Path, split: int) -> Benchmark:
    if name == "sysu":
        return SYSU(root)
    if name == "regdb":
        return RegDB(root, split)
    if name == "llcm":
        return LLCM(root)
    if name == "synthetic":
        return SYSU(root, name="synthetic")
    raise DataError(f"DATA.NAME is {name!r}; known are sysu, regdb, llcm and synthetic")


def hint(name: str, root: Path) -> str:
    """Sentences on what lies in a DATA.ROOT that is not the data set of that name, and where that may be."""
    signs = {"sysu": SYSU.signs, "regdb": RegDB.signs, "llcm": LLCM.signs}
    wanted = signs.get("sysu" if name == "synthetic" else name, ())
    if shows(root, wanted):
        return ""
    other = next((other for other in signs if shows(root, signs[other])), None)
    near, archive = nearby(root, wanted), archive_of(root)
    said = f" It looks like another data set: DATA.NAME {other}." if other else ""
    if near is not None:
        return f"{said} Did you mean DATA.ROOT {near}?"
    return f"{said} If the data set is in {archive}, unpack that." if archive else said


def hold_out(records: Sequence[Record], identities: int, seed: int) -> tuple[list[Record], list[Record]]:
    """Take some training identities away for validation: (records to train on, records held out)."""
    known = sorted({record.identity for record in records})
    if identities >= len(known):
        raise DataError(f"SOLVER.VALIDATION_IDS is {identities}, and the training set has {len(known)} identities")
    held = set(np.random.default_rng(seed).choice(known, identities, replace=False).tolist())
    return [r for r in records if r.identity not in held], [r for r in records if r.identity in held]


class TrainBatches(Dataset):
    """Whole training batches by (epoch, step), whatever the number of worker processes that load them.

    An image's augmentation draws from a generator seeded by (seed, epoch, step, its place in the batch), so that it is
    the same in every process, and torch's generators, of the CPU and of devices, are left as they were.

    cache                  where the resized images come from; without one, from the files. Changes no batch
    rank, world            of several training processes, each takes its share of a batch's identities
    visible                a pipeline for each showing of a visible image (data/transforms.py)
    infrared               the pipeline of infrared images
    batches[epoch, step]   visible (S·P·K, 3, H, W) float32 in channels-last memory, one showing of all images after the
                           other, infrared (P·K, 3, H, W) likewise, labels (P·K,) int64: those of each
    raises                 DataError where the identities of a batch cannot be shared evenly
    """

    def __init__(
        self,
        records: Sequence[Record],
        identities: int,
        images: int,
        seed: int,
        height: int,
        width: int,
        *,
        visible: Sequence[TrainTransform],
        infrared: TrainTransform,
        cache: ImageCache | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        if identities % world:
            raise DataError(f"SOLVER.IDENTITIES is {identities}, which {world} processes cannot share evenly")
        self.records, self.seed, self.height, self.width = records, seed, height, width
        self.rank, self.world = rank, world
        self.sampler = IdentitySampler(records, identities, images, seed)
        self.identities = self.sampler.identities
        if cache is not None and (cache.height, cache.width) != (height, width):
            raise DataError(f"the cache {cache.folder} holds images of another size than {height}x{width}")
        self.read = partial(open_image, height=height, width=width) if cache is None else cache.read
        self.visible, self.infrared = visible, infrared

    def __len__(self) -> int:
        return len(self.sampler)

    def __getitem__(self, position: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        visible, infrared, labels = self.sampler.batch(*position)
        share = len(labels) // self.world
        mine = slice(self.rank * share, (self.rank + 1) * share)
        streams = [*((transform, visible) for transform in self.visible), (self.infrared, infrared)]
        seeds = np.random.SeedSequence((self.seed, *position)).generate_state(len(streams) * len(labels), np.uint64)
        with torch.random.fork_rng(devices=[]):
            *shown, last = (
                self.load(transform, rows[mine], own_seeds[mine])
                for (transform, rows), own_seeds in zip(streams, np.split(seeds, len(streams)))
            )
        return torch.cat(shown) if len(shown) > 1 else shown[0], last, torch.from_numpy(labels[mine])

    def load(self, transform: TrainTransform, rows: np.ndarray, seeds: np.ndarray) -> Tensor:
        images = torch.empty(len(rows), self.height, self.width, 3)
        for row, seed, out in zip(rows, seeds.tolist(), images.numpy(), strict=True):
            # Not torch.manual_seed, which would seed the devices' generators too.
            torch.default_generator.manual_seed(seed)
            transform(self.read(self.records[row].path), out)
        return images.permute(0, 3, 1, 2)


class EvalImages(Dataset):
    """The test pipeline over some rows of the records: (image (3, H, W) float32, row)."""

    def __init__(self, records: Sequence[Record], rows: Sequence[int], height: int, width: int):
        self.records, self.rows, self.height, self.width = records, rows, height, width

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        row = self.rows[i]
        return eval_transform(open_image(self.records[row].path, self.height, self.width)), row


def eval_loaders(
    records: Sequence[Record], height: int, width: int, batch: int, workers: int, pin_memory: bool,
    rank: int = 0, world: int = 1, worker_init_fn: Callable[[int], None] | None = None,
) -> list[tuple[DataLoader, bool]]:
    """A loader of (images (B, 3, H, W), rows (B,)) for each modality, and whether that is infrared.

    rank, world      of several processes, each takes every world-th row
    worker_init_fn   is called by each process that loads images, with its number
    """
    loaders = []
    for infrared in (False, True):
        rows = [row for row, record in enumerate(records) if record.infrared == infrared]
        images = EvalImages(records, rows[rank::world], height, width)
        loader = DataLoader(
            images, batch, num_workers=workers, pin_memory=pin_memory, worker_init_fn=worker_init_fn,
        )
        loaders.append((loader, infrared))
    return loaders
