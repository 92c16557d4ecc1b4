"""From a configuration to the parts of a training."""

import torch
from torch import nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from configs.load import ConfigError
from data.cache import ImageCache, prepared
from data.dataset import TrainBatches
from data.records import Benchmark
from data.sampler import SAMPLERS
from data.shapes import WHERE_FROM, Shapes
from data.transforms import Pipeline, read_size, read_step
from losses.build import build_total
from models.build import MODELS, build_model, class_of
from models.network import Network
from utils.lock import only_one
from utils.training.distributed import ALONE, Ranks
from utils.training.loaders import start_worker
from utils.training.run import LOG


def check_together(cfg: CfgNode, device: torch.device) -> None:
    """Refuse options that are allowed alone, but not with the others; before any work.

    raises   ConfigError, ImageSizeError, MethodError
    """
    network = class_of(cfg.MODEL)
    network.check_installed()
    network.check_images(cfg.MODEL, image_size(cfg), (len(cfg.DATA.VISIBLE), len(cfg.DATA.INFRARED)))
    if network.reads_shapes and not cfg.DATA.SHAPES:
        raise ConfigError(
            f"{cfg.MODEL.NAME} learns from a body-shape image of each training image: set DATA.SHAPES to their folder; "
            f"{WHERE_FROM}"
        )
    if network.in_pairs and SAMPLERS[cfg.SOLVER.SAMPLER].blind:
        raise ConfigError(
            f"SOLVER.SAMPLER is {cfg.SOLVER.SAMPLER}, whose batches have any mix of both modalities, and "
            f"{cfg.MODEL.NAME} compares them row by row: set it to replacement, distinct or chunks"
        )
    weightings_of(network, cfg)  # what the test cannot do is said before the training
    check_sizes(cfg.DATA)
    if cfg.SOLVER.SYNC_BN and device.type != "cuda":
        raise ConfigError("SOLVER.SYNC_BN works on CUDA devices only; set it to false")
    if cfg.SOLVER.COMPILE != "none" and cfg.MODEL.RECOMPUTE:
        raise ConfigError(
            f"SOLVER.COMPILE is {cfg.SOLVER.COMPILE}, and MODEL.RECOMPUTE {cfg.MODEL.RECOMPUTE}: a compiled network "
            'computes no parts again; set SOLVER.COMPILE to none, or MODEL.RECOMPUTE to "[]"'
        )
    if cfg.SOLVER.CHOOSE_BEST_ON_TEST_DATA and cfg.SOLVER.VALIDATION_IDS:
        raise ConfigError(
            f"SOLVER.VALIDATION_IDS is {cfg.SOLVER.VALIDATION_IDS}, and SOLVER.CHOOSE_BEST_ON_TEST_DATA true: the best "
            "epoch is chosen by one of them; set that to false, or SOLVER.VALIDATION_IDS to 0"
        )


def check_sizes(data: CfgNode) -> None:
    """
    data     the DATA section of the configuration
    raises   ConfigError where training images are read in another size than the network's, and a view leaves them so
    """
    if read_size(data) == (data.HEIGHT, data.WIDTH):
        return
    for name in ("VISIBLE", "INFRARED"):
        for view in data[name]:
            if "resize" not in [read_step(step)[0] for step in view]:
                raise ConfigError(
                    f"DATA.READ_SIZE is {data.READ_SIZE}, the network's images are {data.HEIGHT}x{data.WIDTH}, and "
                    f'DATA.{name} has a view without the step resize: add it, or set DATA.READ_SIZE to "[0, 0]"'
                )


def weightings_of(model: Network | type[Network], cfg: CfgNode) -> list[str]:
    """Of pooled and neck features: those that TEST.WEIGHTINGS asks for, or all that the network (or its class) has.

    raises   ConfigError
    """
    for weighting in cfg.TEST.WEIGHTINGS:
        if weighting not in model.weightings:
            raise ConfigError(f"TEST.WEIGHTINGS has {weighting!r}; {cfg.MODEL.NAME} has {', '.join(model.weightings)}")
    return cfg.TEST.WEIGHTINGS or [*model.weightings]


def require_any_pair(model: Network, what: str) -> None:
    """
    what     compares images of one modality, too
    raises   ConfigError where the network's embeddings don't
    """
    if model.only_across:
        raise ConfigError(
            f"{what} compares images of one modality, too; with {model.only_across}, embeddings compare with those of "
            "the other modality alone: leave one of them out"
        )


def cached_images(cfg: CfgNode, benchmark: Benchmark) -> ImageCache | None:
    """The cache of DATA.CACHE, built where it isn't there; None without one.

    raises   DataError
    """
    if not cfg.DATA.CACHE:
        return None
    return prepared(
        cfg.DATA.CACHE, benchmark, *read_size(cfg.DATA), max(1, cfg.DATA.WORKERS), LOG.info,
        alone=lambda folder: only_one(folder, "cache", LOG.info, wait=True), resize=cfg.DATA.RESIZE,
    )


def body_shapes(cfg: CfgNode, benchmark: Benchmark) -> Shapes | None:
    """The body shapes of the training images; None for a method that reads none.

    raises   DataError where some are missing
    """
    return Shapes(benchmark, cfg.DATA.SHAPES) if class_of(cfg.MODEL).reads_shapes else None


def train_batches(
    cfg: CfgNode, records: list, ranks: Ranks = ALONE, cache: ImageCache | None = None, shapes: Shapes | None = None
) -> TrainBatches:
    """The batches of a training on these records, of several processes this one's share.

    shapes   of the records; where these are cached, so are they
    raises   DataError; ConfigError where the records show one modality, and the method needs both; MethodError where
             they are of more cameras than its network knows
    """
    solver, data = cfg.SOLVER, cfg.DATA
    shown = {record.infrared for record in records}
    if len(shown) == 1:
        require_one_modality(cfg, "infrared" if shown.pop() else "visible", ranks)
    class_of(cfg.MODEL).check_cameras(cfg.MODEL, len({record.camera for record in records}))
    sampler = SAMPLERS[solver.SAMPLER](records, solver.IDENTITIES, solver.IMAGES, cfg.SEED)
    return TrainBatches(
        records, sampler, cfg.SEED, data.HEIGHT, data.WIDTH, read_size=read_size(data), resize=data.RESIZE,
        cache=cache, rank=ranks.rank, world=ranks.world, accumulation=solver.ACCUMULATION,
        visible=[Pipeline(view) for view in data.VISIBLE], infrared=[Pipeline(view) for view in data.INFRARED],
        shape=(shapes.own, Pipeline(data.SHAPE[0])) if shapes else None, mix=cfg.LOSS.MIXED,
        shape_cache=cached_images(cfg, shapes) if shapes and cache else None,
    )


def require_one_modality(cfg: CfgNode, modality: str, ranks: Ranks) -> None:
    """
    modality   the only one that the training images are of
    raises     ConfigError where the method, its sampler or several processes don't work with that
    """
    able = [name for name, network in MODELS.items() if network.one_modality]
    if cfg.MODEL.NAME not in able:
        raise ConfigError(
            f"{cfg.DATA.NAME} has {modality} training images alone, and {cfg.MODEL.NAME} learns from both modalities; "
            f"of one alone learn {' and '.join(able)}, and the baseline, which is agw by configs/methods/base.yaml"
        )
    if SAMPLERS[cfg.SOLVER.SAMPLER].in_pairs:
        raise ConfigError(
            f"SOLVER.SAMPLER is {cfg.SOLVER.SAMPLER}, which pairs the modalities, and {cfg.DATA.NAME} has {modality} "
            "training images alone: set it to replacement or distinct"
        )
    if ranks.world > 1:
        raise ConfigError(
            f"{cfg.DATA.NAME} has {modality} training images alone, on which one process trains, not {ranks.world}"
        )


def train_loader(batches: TrainBatches, cfg: CfgNode, epoch: int, step: int, device: torch.device) -> DataLoader:
    """One loader for all batches to come, so that workers start once and prefetch across epochs.

    epoch, step   the update to begin with
    """
    first = epoch, step * cfg.SOLVER.ACCUMULATION
    keys = ((e, i) for e in range(epoch, cfg.SOLVER.EPOCHS) for i in range(batches.length(e)) if (e, i) >= first)
    return DataLoader(
        batches, batch_size=None, sampler=keys, num_workers=cfg.DATA.WORKERS, worker_init_fn=start_worker,
        pin_memory=device.type == "cuda",
    )


def build_network(cfg: CfgNode, classes: int, pretrained: bool = True) -> Network:
    """The network by the seed of the configuration; `pretrained` false leaves ImageNet's weights out.

    classes   number of training identities
    raises    ImageSizeError, MethodError, PretrainedError
    """
    options = cfg.MODEL.clone()
    if not pretrained:
        options.defrost()
        options.PRETRAINED = "none"
    torch.manual_seed(cfg.SEED)
    return build_model(options, classes, image_size(cfg))


def build_loss(cfg: CfgNode) -> nn.Module:
    """The total of the method: (output, epoch) -> {name: weighted scalar}."""
    return build_total(cfg.MODEL.NAME, cfg.LOSS)


def image_size(cfg: CfgNode) -> tuple[int, int]:
    """Height and width in pixels."""
    return cfg.DATA.HEIGHT, cfg.DATA.WIDTH


def layout_of(cfg: CfgNode) -> torch.memory_format:
    """In which a training holds its weights, images and maps."""
    return torch.channels_last if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format


def streams_of(cfg: CfgNode) -> int:
    """How often a batch has K images of an identity: in each view of visible and of infrared images and of their body
    shapes, unless the K are of both modalities together.
    """
    visible, infrared = len(cfg.DATA.VISIBLE), len(cfg.DATA.INFRARED)
    if SAMPLERS[cfg.SOLVER.SAMPLER].blind:
        return max(visible, infrared)
    return visible + infrared + 2 * class_of(cfg.MODEL).reads_shapes


def faster_reading(cfg: CfgNode, waiting: float) -> str:
    """What to change where a training waits for its images.

    waiting   the part of the time, 0 to 1
    """
    cache = "" if cfg.DATA.CACHE else "DATA.CACHE FOLDER, which decodes and resizes each image once; "
    return (
        f"{waiting:.0%} of the time went by in waiting for images, with DATA.WORKERS {cfg.DATA.WORKERS}. With the same "
        f"results, after a stop and --resume: {cache}more DATA.WORKERS where the machine has more cores"
    )


def less_memory(cfg: CfgNode, parts: tuple[str, ...]) -> str:
    """What to change where a step needs too much memory.

    parts   of the network, for MODEL.RECOMPUTE
    """
    again = (
        f'With the same results: MODEL.RECOMPUTE "{[*parts]}" (now {cfg.MODEL.RECOMPUTE}), which --resume accepts, or '
        "more GPUs. With others" if parts else "With the same results: more GPUs. With others"
    )
    return (
        f"A step has {cfg.SOLVER.IDENTITIES} identities with {streams_of(cfg)} x {cfg.SOLVER.IMAGES} images of "
        f"{cfg.DATA.HEIGHT}x{cfg.DATA.WIDTH} in {cfg.SOLVER.PRECISION}. {again}, in another OUTPUT: SOLVER.PRECISION "
        "bfloat16; a lower SOLVER.IDENTITIES or SOLVER.IMAGES, with as much more SOLVER.ACCUMULATION"
    )
