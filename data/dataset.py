"""Records -> tensors: whole training batches, and single images for the test; and the list of data sets."""

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from common.batch import Batch, Kind, Stream
from common.words import how_many
from data.cache import ImageCache
from data.files import absolute, archive_of, nearby, shows
from data.folder import Folder
from data.llcm import LLCM
from data.market import Market
from data.mixing import mixed
from data.pixels import eval_transform, open_image
from data.records import Benchmark, DataError, LayoutError, Record
from data.regdb import RegDB
from data.sampler import Part, Sampler
from data.synthetic import MANIFEST as DRAWN
from data.sysu import SYSU
from data.transforms import Pipeline

MIXING = 1  # tells the draws of mixed batches from those of the sampler


def open_data(data: CfgNode, strict: bool = True) -> Benchmark:
    """The data set that a configuration names.

    data     its DATA section
    strict   as in `Folder`
    raises   DataError
    """
    own = {
        "listed": data.FOLDER.LIST, "test_share": data.FOLDER.TEST_SHARE,
        "validation_share": data.FOLDER.VALIDATION_SHARE, "strict": strict,
    }
    return open_benchmark(data.NAME, data.ROOT, data.SPLIT, **own if is_own(data.NAME) else {})


def open_benchmark(name: str, root: str | Path, split: int = 1, **own: Any) -> Benchmark:
    """The data set of that name in the folder `root`.

    split    of RegDB, and of a folder of one's own whose split is drawn
    own      what else `Folder` is told
    raises   DataError, of a folder that isn't laid out as the data set with a hint which one may have been meant
    """
    try:
        return read_benchmark(name, root, split, **own)
    except LayoutError as error:
        raise LayoutError(f"{error}{hint(name, absolute(root))}") from None


def is_own(name: str) -> bool:
    """Whether a data set is a folder of one's own: folder, or folder-SOMETHING."""
    return re.fullmatch(r"folder(-\w+)?", name, re.ASCII) is not None


def has_splits(name: str) -> bool:
    """Whether DATA.SPLIT says of a data set who is trained on."""
    return name == "regdb" or is_own(name)


def read_benchmark(name: str, root: str | Path, split: int, **own: Any) -> Benchmark:
    if is_own(name):
        return Folder(root, split, name, **own)
    if name == "sysu":
        return SYSU(root)
    if name == "regdb":
        return RegDB(root, split)
    if name == "llcm":
        return LLCM(root)
    if name == "synthetic":
        return SYSU(root, name="synthetic")
    if name == "market":
        return Market(root)
    raise DataError(
        f"DATA.NAME is {name!r}; known are sysu, regdb, llcm, market, synthetic, and folder or folder-NAME for images "
        "of your own"
    )


def hint(name: str, root: Path) -> str:
    """Sentences on what lies in a DATA.ROOT that is not the data set of that name, and where that may be."""
    signs = {"sysu": SYSU.signs, "regdb": RegDB.signs, "llcm": LLCM.signs, "market": Market.signs}
    wanted = signs.get("sysu" if name == "synthetic" else name, ())
    if shows(root, wanted):
        return ""
    other = next((other for other in signs if shows(root, signs[other])), None)
    near, archive = nearby(root, wanted, never="" if name == "synthetic" else DRAWN), archive_of(root)
    said = f" It looks like another data set: DATA.NAME {other}." if other else ""
    if near is not None:
        return f"{said} Did you mean DATA.ROOT {near}?"
    return f"{said} If the data set is in {archive}, unpack that." if archive else said


def hold_out(
    records: Sequence[Record], identities: int, seed: int, own: AbstractSet[int] = frozenset()
) -> tuple[list[Record], list[Record]]:
    """Take some training identities away for validation: (records to train on, records held out).

    own   those that the data set itself keeps for that
    """
    known = sorted({record.identity for record in records})
    if own and identities:
        raise DataError(
            f"SOLVER.VALIDATION_IDS is {identities}, and the data set has {how_many(len(own), 'person', 'people')} "
            "for validation already: "
            "set it to 0"
        )
    if identities >= len(known):
        raise DataError(
            f"SOLVER.VALIDATION_IDS is {identities}, and the training set has "
            f"{how_many(len(known), 'identity', 'identities')}"
        )
    held = own or set(np.random.default_rng(seed).choice(known, identities, replace=False).tolist())
    return [r for r in records if r.identity not in held], [r for r in records if r.identity in held]


class TrainBatches(Dataset):
    """Whole training batches by (epoch, step), whatever the number of worker processes that load them.

    An image's augmentation draws from a generator seeded by (seed, epoch, step, its place in the batch), so that it is
    the same in every process, and torch's generators, of the CPU and of devices, are left as they were.

    height, width          of the network's input
    read_size              height and width of images when a pipeline gets them; those of the network if not given
    resize                 how images get that size
    cache                  where the resized images come from; without one, from the files. Changes no batch
    rank, world            of several training processes, each takes its share of a batch's identities
    accumulation           batches that make an update
    sampler                which images make a batch (data/sampler.py)
    visible, infrared      a pipeline for each view of an image of that modality (data/transforms.py)
    shape                  where the images' body shapes are (path -> path), and their pipeline; None: there are none
    shape_cache            as `cache`, of the body shapes
    mix                    probability that a batch is mixed (data/mixing.py)
    batches[epoch, step]   the Batch: a stream for each view of the visible images, then of the infrared ones, then the
                           body shapes of both; float32 in channels-last memory
    raises                 DataError where the identities of a batch cannot be shared evenly
    """

    def __init__(
        self,
        records: Sequence[Record],
        sampler: Sampler,
        seed: int,
        height: int,
        width: int,
        *,
        visible: Sequence[Pipeline],
        infrared: Sequence[Pipeline],
        read_size: tuple[int, int] | None = None,
        resize: str = "lanczos",
        cache: ImageCache | None = None,
        shape: tuple[Mapping[str, str], Pipeline] | None = None,
        shape_cache: ImageCache | None = None,
        mix: float = 0.0,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
    ):
        if sampler.count % world:
            raise DataError(f"SOLVER.IDENTITIES is {sampler.count}, which {world} processes cannot share evenly")
        self.records, self.seed, self.height, self.width = records, seed, height, width
        self.rank, self.world, self.accumulation = rank, world, accumulation
        self.sampler, self.identities = sampler, sampler.identities
        _, self.cameras = np.unique([record.camera for record in records], return_inverse=True)  # (records,) from 0
        rows, columns = read_size or (height, width)
        for held in (cache, shape_cache):
            if held is not None and (held.height, held.width) != (rows, columns):
                raise DataError(f"the cache {held.folder} holds images of another size than {rows}x{columns}")
        from_file = partial(open_image, height=rows, width=columns, resize=resize)
        self.read = from_file if cache is None else cache.read
        self.read_shape = from_file if shape_cache is None else shape_cache.read
        self.views = [(Kind(False, i), pipeline) for i, pipeline in enumerate(visible)]
        self.views += [(Kind(True, i), pipeline) for i, pipeline in enumerate(infrared)]
        self.shapes: Mapping[str, str] = shape[0] if shape else {}
        self.views += [(Kind(modality, shape=True), shape[1]) for modality in (False, True) if shape]
        self.mix = mix

    def identities_of(self, batches: Sequence[Batch]) -> list[int]:
        """Whom they show, as the data set names them."""
        labels = {label for batch in batches for stream in batch.streams for label in stream.labels.tolist()}
        return sorted(self.identities[label] for label in labels)

    def length(self, epoch: int) -> int:
        """Batches in an epoch."""
        return self.sampler.length(epoch)

    def updates(self, epoch: int) -> int:
        """Updates in an epoch."""
        return -(-self.sampler.length(epoch) // self.accumulation)

    def announced(self, epoch: int) -> int:
        """Updates by which a schedule divides an epoch."""
        return -(-self.sampler.announced(epoch) // self.accumulation)

    def __getitem__(self, position: tuple[int, int]) -> Batch:
        epoch, step = position
        drawn = self.sampler.batch(epoch, step)
        parts = [drawn.infrared if kind.infrared else drawn.visible for kind, _ in self.views]
        sizes = [len(part.rows) for part in parts]
        groups = drawn.identities.reshape(self.world, -1)  # of each process
        shares = [
            [int(np.isin(part.labels, group).sum()) for part, (kind, _) in zip(parts, self.views) if not kind.shape]
            for group in groups
        ]
        seeds = np.random.SeedSequence((self.seed, epoch, step)).generate_state(sum(sizes), np.uint64)
        # Once, however often an image is shown: pipelines leave it as it is.
        read = {False: lru_cache(None)(self.read), True: lru_cache(None)(self.read_shape_of)}
        with torch.random.fork_rng(devices=[]):
            batch = Batch([
                self.stream(kind, pipeline, read[kind.shape], epoch, part, own_seeds, groups[self.rank])
                for (kind, pipeline), part, own_seeds in zip(self.views, parts, np.split(seeds, np.cumsum(sizes)[:-1]))
            ], shares if any(share != shares[0] for share in shares) else None)
        return mixed(batch, self.mix, (self.seed, epoch, step, MIXING), self.rank) if self.mix else batch

    def read_shape_of(self, path: str) -> np.ndarray:
        return self.read_shape(self.shapes[path])

    def stream(
        self, kind: Kind, pipeline: Pipeline, read: Callable[[str], np.ndarray], epoch: int, part: Part,
        seeds: np.ndarray, identities: np.ndarray,
    ) -> Stream:
        """This process's share of the images: those of some identities."""
        mine = np.isin(part.labels, identities)
        images = torch.empty(int(mine.sum()), self.height, self.width, 3)
        for row, seed, out in zip(part.rows[mine], seeds[mine].tolist(), images.numpy(), strict=True):
            # Not torch.manual_seed, which would seed the devices' generators too.
            torch.default_generator.manual_seed(seed)
            pipeline(read(self.records[row].path), out, epoch)
        cameras = torch.from_numpy(self.cameras[part.rows[mine]])
        return Stream(images.permute(0, 3, 1, 2), torch.from_numpy(part.labels[mine]), kind, cameras)


class EvalImages(Dataset):
    """The test pipeline over some rows of the records: (image (3, H, W) float32, row).

    channel   0, 1 or 2: all channels become the red, green or blue one; None: the image as it is
    read      what reads an image, called as `open_image`
    """

    def __init__(
        self, records: Sequence[Record], rows: Sequence[int], height: int, width: int, resize: str = "lanczos",
        channel: int | None = None, read: Callable[..., np.ndarray] = open_image,
    ):
        self.records, self.rows, self.height, self.width, self.resize = records, rows, height, width, resize
        self.channel, self.read = channel, read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        row = self.rows[i]
        image = self.read(self.records[row].path, self.height, self.width, self.resize)
        return eval_transform(image if self.channel is None else image[:, :, [self.channel] * 3]), row


def eval_loaders(
    records: Sequence[Record], height: int, width: int, batch: int, workers: int, pin_memory: bool,
    rank: int = 0, world: int = 1, worker_init_fn: Callable[[int], None] | None = None, resize: str = "lanczos",
    channel: int | None = None, read: Callable[..., np.ndarray] = open_image,
) -> list[tuple[DataLoader, bool]]:
    """A loader of (images (B, 3, H, W), rows (B,)) for each modality, and whether that is infrared.

    rank, world      of several processes, each takes every world-th row
    worker_init_fn   is called by each process that loads images, with its number
    resize           how images get their size
    channel, read    as in `EvalImages`
    """
    loaders = []
    for infrared in (False, True):
        rows = [row for row, record in enumerate(records) if record.infrared == infrared]
        images = EvalImages(records, rows[rank::world], height, width, resize, channel, read)
        loader = DataLoader(
            images, batch, num_workers=workers, pin_memory=pin_memory, worker_init_fn=worker_init_fn,
        )
        loaders.append((loader, infrared))
    return loaders
