"""The test-time embeddings of records, as they are and compressed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from common.words import how_many
from data.dataset import eval_loaders, has_splits
from data.pixels import open_image
from data.records import Record
from models.network import Network
from utils.evaluation.evaluator import Versions, embed_images, scaled
from utils.output import require_files
from utils.retrieval.compress import (
    CompressionError,
    check_number,
    load_directions,
    principal_directions,
    project,
    save_directions,
)
from utils.stop import StopRequest
from utils.training.distributed import ALONE, Ranks
from utils.training.loaders import loader_advice, start_worker
from utils.training.run import memory_advice


@overload
def embed_records(
    model: Network, records: Sequence[Record], cfg: CfgNode, device: torch.device, ranks: Ranks = ...,
    stop: None = None, channel: int | None = None, read: Callable[..., np.ndarray] = ...,
) -> Tensor: ...


@overload
def embed_records(
    model: Network, records: Sequence[Record], cfg: CfgNode, device: torch.device, ranks: Ranks, stop: StopRequest,
) -> Tensor | None: ...


def embed_records(
    model: Network, records: Sequence[Record], cfg: CfgNode, device: torch.device, ranks: Ranks = ALONE,
    stop: StopRequest | None = None, channel: int | None = None, read: Callable[..., np.ndarray] = open_image,
) -> Tensor | None:
    """(len(records), E) embeddings, each image once by one of the processes; the model is left in evaluation mode.

    stop      asked between batches; None is returned where any process was asked to stop
    channel   all channels become the red (0), green or blue one; None: the images as they are
    read      what reads an image, called as `open_image` of data/pixels.py
    """
    model.eval()
    loaders = eval_loaders(
        records, cfg.DATA.HEIGHT, cfg.DATA.WIDTH, cfg.TEST.BATCH, cfg.DATA.WORKERS, pin_memory=device.type == "cuda",
        rank=ranks.rank, world=ranks.world, worker_init_fn=start_worker, resize=cfg.DATA.RESIZE,
        channel=channel, read=read,
    )

    def embed(images: Tensor, infrared: bool) -> Tensor:
        return model.embed(images.contiguous(memory_format=torch.channels_last), infrared, cfg.TEST.FLIP)

    with memory_advice(f"Lower TEST.BATCH, which is {cfg.TEST.BATCH}"), loader_advice(cfg.DATA.WORKERS):
        return embed_images(embed, loaders, [record.path for record in records], device, stop=stop)


def embed_versions(
    model: Network, records: Sequence[Record], cfg: CfgNode, device: torch.device, ranks: Ranks = ALONE,
    read: Callable[..., np.ndarray] = open_image,
) -> Versions | None:
    """What the re-ranking of TEST.RERANK needs beside the embeddings; None where it needs nothing."""
    if cfg.TEST.RERANK != "mser":
        return None
    infrared = np.array([record.infrared for record in records])
    visible = np.flatnonzero(~infrared)
    shown = [records[row] for row in visible.tolist()]
    found = embed_records(model, shown, cfg, device, ranks, channel=0, read=read)
    features = found.new_zeros(3, len(records), found.shape[1])
    features[0, visible] = found
    for channel in (1, 2):
        features[channel, visible] = embed_records(model, shown, cfg, device, ranks, channel=channel, read=read)
    return Versions(infrared, features)


def learned_directions(
    model: Network, weightings: list[str], train_records: Callable[[], list], cfg: CfgNode, checkpoint: dict,
    device: torch.device, ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """By weighting, the (E, EMBEDDING.DIM) directions that compress scaled embeddings; of several processes, the first.

    They are learned on the training images and kept beside the checkpoint, from where later calls take them.

    train_records   is called where that is not the case
    checkpoint      what results.json says of it
    raises          CompressionError where EMBEDDING.DIM is more than the embeddings or the training images allow, or
                    where they would have to be learned on another data set than the network
    """
    dim = cfg.EMBEDDING.DIM
    folder = Path(checkpoint["path"]).parent if "path" in checkpoint else Path(cfg.OUTPUT)
    files = {weighting: folder / f"pca-{dim}-{weighting}.pth" for weighting in weightings}
    split = {"split": cfg.DATA.SPLIT} if has_splits(cfg.DATA.NAME) else {}  # no other data set reads it
    data = {"name": cfg.DATA.NAME, **split} | checkpoint.get("trained_on", {})
    of_all = {key: value for key, value in checkpoint.items() if key not in ("path", "trained_on")} | {
        "model": cfg.MODEL.dump(), "data": [data["name"], data.get("split", 1)], "flip": cfg.TEST.FLIP,
        "height": cfg.DATA.HEIGHT, "width": cfg.DATA.WIDTH,
    }
    if cfg.DATA.RESIZE != "lanczos":
        of_all["resize"] = cfg.DATA.RESIZE
    learned_from = {weighting: of_all | {"weighting": weighting} for weighting in weightings}
    kept = {weighting: load_directions(files[weighting], learned_from[weighting]) for weighting in weightings}
    directions = {weighting: found for weighting, found in kept.items() if found is not None}
    missing = [weighting for weighting in weightings if weighting not in directions]
    if missing:
        if data["name"] != cfg.DATA.NAME:
            raise CompressionError(
                f"EMBEDDING.DIM takes directions that are learned on {data['name']}, as the network was, and there are "
                f"none of {how_many(dim, 'number')} in {folder}: test it on {data['name']} first with the same options"
            )
        records = train_records()
        scales = {weighting: model.column_scale(weighting) for weighting in missing}
        for scale in scales.values():
            check_number(dim, len(records), int(scale.count_nonzero()))
        if ranks.first:
            needed = (files[weighting] for weighting in missing)
            require_files(*needed, fix="copy the run to a folder that can be written")
        features = embed_records(model, records, cfg, device, ranks)
        for weighting in missing if ranks.first else []:
            directions[weighting] = principal_directions(scaled(features, scales[weighting]), dim)
            files[weighting].parent.mkdir(parents=True, exist_ok=True)
            save_directions(files[weighting], learned_from[weighting], directions[weighting])
            print(f"PCA learned on {how_many(len(records), 'training image')}: {files[weighting]}")
    return directions


def weighing(
    model: Network, weighting: str, cfg: CfgNode, checkpoint: dict, train_records: Callable[[], list],
    device: torch.device,
) -> Callable[[Tensor], Tensor]:
    """What test.py makes of pooled and neck features (N, ...) before it ranks: weighed and, with EMBEDDING.DIM,
    compressed.

    raises   as `learned_directions`
    """
    scale, directions = model.column_scale(weighting).to(device), None
    if cfg.EMBEDDING.DIM:
        learned = learned_directions(model, [weighting], train_records, cfg, checkpoint, device)
        directions = learned[weighting].to(device)

    def weighed(features: Tensor) -> Tensor:
        features = scaled(features, scale)
        return features if directions is None else project(features, directions)

    return weighed


def compressed(
    features: Tensor, versions: Versions | None, scale: Tensor | None, directions: Tensor
) -> tuple[Tensor, Versions | None]:
    """Embeddings, and what a re-ranking needs beside them: scaled, and along their weighting's `learned_directions`."""

    def along(x: Tensor) -> Tensor:
        return project(scaled(x, scale), directions)

    return along(features), versions and versions.of(along)


def described(weighting: str, cfg: CfgNode) -> str:
    """The weighting as results name it: with what compresses the embedding, if anything does."""
    return f"{weighting}, PCA {cfg.EMBEDDING.DIM}" if cfg.EMBEDDING.DIM else weighting
