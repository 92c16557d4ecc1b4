"""Train a network on a data set.

    python train.py --config configs/sysu_cmfn.yaml DATA.ROOT datasets/SYSU-MM01 OUTPUT runs/sysu
    python train.py --config configs/sysu_cmfn.yaml OUTPUT runs/sysu --resume
    torchrun --nproc_per_node 2 train.py --config configs/sysu_cmfn.yaml OUTPUT runs/sysu    # on two GPUs
"""

import argparse
import itertools
import math
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for PYTHONSAFEPATH, and before packages of the same names

from utils.stop import Stopped, StopRequest, fail_clearly, stop_in_one_line, stop_status

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from configs.load import ConfigError, differences, from_dump, load_config
from data.cache import prepared
from data.dataset import TrainBatches, eval_loaders, hold_out, open_benchmark
from data.records import DataError
from data.transforms import train_transforms
from losses.labels import full_precision
from losses.total import TotalLoss
from models.parts.backbone import PretrainedError
from models.build import build_model, class_of
from models.parts.head import Output
from models.parts.mfa import ImageSizeError
from models.two_stream import MethodError
from utils.training.checkpoint import CheckpointError, load_weights, read_own_checkpoint, save_checkpoint
from utils.training.distributed import RankLostError, Ranks, RanksError, gather_rows, joined, sum_over_ranks
from utils.evaluation.evaluator import EvaluationError, embed_images, evaluate_protocol
from utils.training.loaders import LoaderError, loader_advice, start_worker
from utils.lock import LockedError, only_one
from utils.output import OutputError, require_folder, write_atomically
from utils.reporting.report import only_a_warning, write_curves
from utils.training.run import (
    LOG, DeviceError, HostCopy, Metrics, OutOfMemory, memory_advice, seed_step, select_algorithms, select_device,
    start_log,
)

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NonFiniteLoss(ValueError):
    """A loss term became infinite or NaN; the message names step, terms and identities."""


def lr_factor_at(epoch: int, solver) -> float:
    """The schedule of docs/method.md section 8: linear warm-up, then steps. Epochs count from 0."""
    if epoch < solver.WARMUP_EPOCHS:
        return (epoch + 1) / solver.WARMUP_EPOCHS
    return [1.0, *(factor for first_epoch, factor in solver.LR_STEPS if first_epoch <= epoch)][-1]


def build_optimizer(model: nn.Module, solver) -> torch.optim.SGD:
    """SGD with two groups: neck and classifier at the base rate, everything else at a fraction of it."""
    groups = [
        {"params": [], "base_lr": solver.BASE_LR},
        {"params": [], "base_lr": solver.BASE_LR * solver.BACKBONE_LR_FACTOR},
    ]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[0 if name.startswith(("head.neck.", "head.classifier.")) else 1]["params"].append(parameter)
    return torch.optim.SGD(
        groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY, nesterov=True, fused=True
    )


def build_loss(cfg) -> TotalLoss:
    return TotalLoss(
        triplet=cfg.LOSS.TRIPLET,
        triplet_weight=cfg.LOSS.TRIPLET_WEIGHT,
        triplet_margin=cfg.LOSS.TRIPLET_MARGIN,
        cpm_weight=cfg.LOSS.CPM_WEIGHT,
        cpm_margin=cfg.LOSS.CPM_MARGIN,
        orthogonal_weight=cfg.LOSS.ORTHOGONAL_WEIGHT,
        dcl_weights=cfg.LOSS.DCL_WEIGHTS,
        divergence_weight=cfg.LOSS.DIVERGENCE_WEIGHT,
        streams=streams_of(cfg),
    )


def streams_of(cfg) -> int:
    """Equal parts of a batch's rows: visible images, the same exchanged where that is asked for, infrared ones."""
    return 2 if cfg.DATA.EXCHANGE == "none" else 3


def weightings_of(model: nn.Module | type[nn.Module], cfg) -> list[str]:
    """Of pooled and neck features: those that TEST.WEIGHTINGS asks for, or all that the network (or its class) has.

    raises   ConfigError
    """
    for weighting in cfg.TEST.WEIGHTINGS:
        if weighting not in model.weightings:
            raise ConfigError(f"TEST.WEIGHTINGS has {weighting!r}; {cfg.MODEL.NAME} has {', '.join(model.weightings)}")
    return cfg.TEST.WEIGHTINGS or [*model.weightings]


def check_together(cfg, device: torch.device) -> None:
    """Refuse options that are allowed alone, but not with the others; before any work.

    raises   ConfigError, MethodError
    """
    weightings_of(class_of(cfg.MODEL), cfg)  # what the test cannot do is said before the training
    if cfg.SOLVER.SYNC_BN and device.type != "cuda":
        raise ConfigError("SOLVER.SYNC_BN works on CUDA devices only; set it to false")
    if cfg.SOLVER.CHOOSE_BEST_ON_TEST_DATA and cfg.SOLVER.VALIDATION_IDS:
        raise ConfigError(
            f"SOLVER.VALIDATION_IDS is {cfg.SOLVER.VALIDATION_IDS}, and SOLVER.CHOOSE_BEST_ON_TEST_DATA true: the best "
            "epoch is chosen by one of them; set that to false, or SOLVER.VALIDATION_IDS to 0"
        )


class Trainer:
    """Everything a training holds, assembled once; `run` is the loop.

    Of several processes (torchrun), each takes its part of a batch's identities; the first alone writes.
    """

    def __init__(self, cfg, resume: bool, device: torch.device, ranks: Ranks = Ranks()):
        check_together(cfg, device)
        self.cfg, self.folder, self.device, self.ranks = cfg, Path(cfg.OUTPUT), device, ranks
        self.last, self.best = self.folder / "last.pth", self.folder / "best.pth"
        if self.last.exists() and not resume:
            raise CheckpointError(
                f"{self.folder} holds a training already: add --resume to go on with it, or choose another OUTPUT"
            )
        saved = read_own_checkpoint(self.last) if self.last.exists() else None
        if saved is not None:
            self.check_same_run(saved)
        start_log(self.folder, ranks.first)
        if ranks.first:
            write_atomically(self.folder / "config.yaml", cfg.dump())
        select_algorithms(cfg.DETERMINISTIC)

        self.benchmark = open_benchmark(cfg.DATA.NAME, cfg.DATA.ROOT, split=cfg.DATA.SPLIT)
        LOG.info("%s", self.benchmark.summary())
        records, held_out = hold_out(self.benchmark.train, cfg.SOLVER.VALIDATION_IDS, cfg.SEED)
        self.judges = self.what_judges(held_out)
        fingerprint = self.benchmark.fingerprint()
        if saved is not None and saved["data"] != fingerprint:
            raise CheckpointError(f"{self.last} was trained on other data than {cfg.DATA.ROOT} now holds")
        for name in {*cfg.TEST.PROTOCOLS} - {"all"}:
            self.benchmark.protocol(name)  # refuses an unknown one
        cache = None
        if cfg.DATA.CACHE:
            cache = prepared(
                cfg.DATA.CACHE, self.benchmark, cfg.DATA.HEIGHT, cfg.DATA.WIDTH, max(1, cfg.DATA.WORKERS), LOG.info,
                alone=lambda folder: only_one(folder, "cache", LOG.info, wait=True),
            )
        visible, infrared = train_transforms(cfg.DATA)
        self.batches = TrainBatches(
            records, cfg.SOLVER.IDENTITIES, cfg.SOLVER.IMAGES, cfg.SEED, cfg.DATA.HEIGHT, cfg.DATA.WIDTH,
            visible=visible, infrared=infrared, cache=cache, rank=ranks.rank, world=ranks.world,
        )
        self.updates = -(-len(self.batches) // cfg.SOLVER.ACCUMULATION)  # in an epoch

        torch.manual_seed(cfg.SEED)
        if saved is not None:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.PRETRAINED = "none"  # the checkpoint's weights replace them anyway
        model = build_model(cfg.MODEL, len(self.batches.identities))
        if cfg.SOLVER.SYNC_BN:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(device, memory_format=torch.channels_last)
        self.criterion = build_loss(cfg)
        self.optimizer = build_optimizer(self.model, cfg.SOLVER)
        self.scaler = torch.amp.GradScaler(device.type, enabled=cfg.SOLVER.PRECISION == "float16")
        self.buffers = [b for b in self.model.buffers() if b.is_floating_point()]
        self.buffers_before = [torch.empty_like(b) for b in self.buffers]

        # "figures" are those of the last epoch where it is trained, but not validated yet.
        self.state = {
            "epoch": 0, "step": 0, "sums": {}, "figures": {}, "best": -1.0, "data": fingerprint,
            "config": self.cfg.dump(),
        }
        if saved is not None:
            load_weights(self.model, saved["model"], self.last)
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
            self.state |= {key: saved[key] for key in self.state if key in saved and key != "config"}
        if ranks.first:
            require_folder(self.folder, "choose another OUTPUT", room=self.room())
        self.metrics = Metrics(self.folder, self.state["epoch"]) if ranks.first else None
        self.network = self.model  # what a step calls: on several processes, gradients are averaged on the way
        if ranks.world > 1:
            # It is about 1x1 kernels, whose strides can be written in two ways for the same memory.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            self.network = DistributedDataParallel(self.model, gradient_as_bucket_view=True)

    def check_same_run(self, saved: dict) -> None:
        """A resumed run must have the options it began with, but for those that change no result."""
        free = (
            "DEVICE", "OUTPUT", "DATA.ROOT", "DATA.WORKERS", "DATA.CACHE", "MODEL.RECOMPUTE", "SOLVER.LOG_PERIOD",
            "SOLVER.EPOCHS", "TEST.", "EMBEDDING.", *(["DATA.SPLIT"] if self.cfg.DATA.NAME != "regdb" else []),
        )
        changed = [d for d in differences(from_dump(saved["config"]), self.cfg) if not d.startswith(free)]
        if changed:
            raise CheckpointError(
                f"{self.last} was trained with other options (there, here): {'; '.join(changed)}. "
                "Resume with the same ones, or choose another OUTPUT"
            )

    def run(self) -> int:
        """Train to the end, or to a stop; returns the program's exit status."""
        solver, state = self.cfg.SOLVER, self.state
        LOG.info(
            "%d identities, %d updates an epoch, %s%s", len(self.batches.identities), self.updates, self.device,
            f", {self.ranks.world} processes" if self.ranks.world > 1 else "",
        )
        if state["epoch"] >= solver.EPOCHS and not state["figures"]:
            LOG.info("the training was complete already: %s", self.last)
            return 0
        if state["epoch"] or state["step"]:
            LOG.info("resuming from %s at epoch %d, step %d", self.last, state["epoch"], state["step"])
        with StopRequest() as stop, loader_advice(self.cfg.DATA.WORKERS):
            try:
                self.train(stop)
            except Stopped as stopped:
                LOG.info("stopped by %s; go on with the same command and --resume", stopped.by or "another process")
                return stop_status(stopped.by)
        LOG.info("training is complete: %s", self.best if self.best.exists() else self.last)
        return 0

    def train(self, stop: StopRequest) -> None:
        """All epochs to come.

        raises   Stopped, with the state saved
        """
        solver, state = self.cfg.SOLVER, self.state
        if state["figures"]:  # the stop came between the training of an epoch and the end of its validation
            self.finish_epoch(stop)
        loader = iter(self.loader())
        for epoch in range(state["epoch"], solver.EPOCHS):
            factor = lr_factor_at(epoch, solver)
            for group in self.optimizer.param_groups:
                group["lr"] = factor * group["base_lr"]
            figures = self.train_epoch(epoch, loader, stop)
            if figures is None:
                self.save()
                raise Stopped(stop.by)
            if not self.weights_are_finite():  # by the last update, after which no loss was computed
                raise NonFiniteLoss(
                    f"a weight is not finite after epoch {epoch}; {self.last} holds those of the epoch before, if "
                    "it exists. Train anew with a lower SOLVER.BASE_LR or with SOLVER.PRECISION float32"
                )
            state |= {"epoch": epoch + 1, "step": 0, "sums": {}, "figures": figures | {"lr": solver.BASE_LR * factor}}
            self.finish_epoch(stop)

    def finish_epoch(self, stop: StopRequest) -> None:
        """Validate where it is time to, save, and write the figures of the last epoch.

        raises   Stopped, with the state saved
        """
        solver, state = self.cfg.SOLVER, self.state
        epoch, figures, improved = state["epoch"] - 1, state["figures"], False
        periodic, last = state["epoch"] % solver.EVAL_PERIOD == 0, state["epoch"] == solver.EPOCHS
        if (periodic or last) and self.judges:
            self.save()  # what was trained is safe now, however the validation ends
            figures = figures | self.validate(stop)
            improved = figures.get("validation_mAP", -1.0) > state["best"]
        if improved:
            state["best"] = figures["validation_mAP"]
        state["figures"] = {}
        self.save(best=improved)
        if self.metrics:
            self.metrics.write(epoch, figures)
        LOG.info("epoch %d: %s", epoch, "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        if periodic and not last:
            self.draw_curves()  # to be looked at while it trains; `main` draws the last ones
        if self.any_is_stopped(stop):
            raise Stopped(stop.by)

    def room(self) -> int:
        """Bytes that checkpoints still need on the disk: the last, the one that replaces it and, if any, the best."""
        trained = [p for p in self.model.parameters() if p.requires_grad]  # which have a momentum each
        one = sum(t.nbytes for t in [*self.model.state_dict().values(), *trained])
        return (2 + bool(self.judges)) * one - sum(f.stat().st_size for f in (self.last, self.best) if f.exists())

    def any_is_stopped(self, stop: StopRequest) -> bool:
        """Whether any of the processes was asked to stop: all of them stop together."""
        return sum_over_ranks(torch.full((1,), float(bool(stop)), device=self.device)).item() > 0

    def loader(self) -> DataLoader:
        """One loader for all batches to come, so that workers start once and prefetch across epochs."""
        first = (self.state["epoch"], self.state["step"] * self.cfg.SOLVER.ACCUMULATION)
        epochs, batches = range(first[0], self.cfg.SOLVER.EPOCHS), range(len(self.batches))
        return DataLoader(
            self.batches,
            batch_size=None,
            sampler=(key for key in itertools.product(epochs, batches) if key >= first),
            num_workers=self.cfg.DATA.WORKERS,
            worker_init_fn=start_worker,
            pin_memory=self.device.type == "cuda",
        )

    def train_epoch(self, epoch: int, loader, stop: StopRequest) -> dict[str, float] | None:
        """Train until the epoch's end: the means of the loss terms, and the speed; None where a stop was asked for."""
        self.model.train()
        sums, first = self.state["sums"], self.state["step"]
        begun, rows = time.perf_counter(), 0
        each = self.cfg.SOLVER.ACCUMULATION
        steps = tqdm(
            range(first, self.updates), f"epoch {epoch}", self.updates, initial=first, leave=False,
            disable=None if self.ranks.first else True,  # None: where there is no terminal
        )
        for step in steps:
            with memory_advice(self.less_memory()):
                batches = [next(loader) for _ in range(min(each, len(self.batches) - step * each))]
                terms, stopping = self.train_step(batches, epoch, step, bool(stop))
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            self.state["step"] = step + 1
            rows += sum(len(visible) + len(infrared) for visible, infrared, _ in batches) * self.ranks.world
            speed = rows / (time.perf_counter() - begun)
            if step % self.cfg.SOLVER.LOG_PERIOD == 0:
                steps.set_postfix({**{k: f"{v:.3f}" for k, v in terms.items()}, "images/s": f"{speed:.0f}"})
            if stopping:
                return None
        figures = {name: total / self.state["step"] for name, total in sums.items()}
        return figures | ({"images_per_second": speed} if rows else {})

    def train_step(self, batches: list, epoch: int, step: int, stop: bool) -> tuple[dict[str, float], bool]:
        """One update by the mean gradient of some batches, each of whole identities.

        batches   of visible (S·PK, 3, H, W), infrared (PK, 3, H, W) and labels (PK,), those of each stream of images
        stop      whether this process was asked to stop
        returns   the weighted loss terms and their total, means over the batches; whether any process was asked to
        raises    NonFiniteLoss before the update, with the running statistics as before the step
        """
        torch._foreach_copy_(self.buffers_before, self.buffers)
        self.optimizer.zero_grad(set_to_none=True)
        dtype, sums = AUTOCAST[self.cfg.SOLVER.PRECISION], 0.0
        for i, batch in enumerate(batches):
            visible, infrared, labels = (t.to(self.device, non_blocking=True) for t in batch)
            visible, infrared = (x.contiguous(memory_format=torch.channels_last) for x in (visible, infrared))
            last = i + 1 == len(batches)
            seed_step(self.cfg.SEED, epoch, step * self.cfg.SOLVER.ACCUMULATION + i, self.ranks.rank)
            with nullcontext() if last or self.ranks.world == 1 else self.network.no_sync():
                with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                    output = self.network(visible, infrared)
                streams = len(output.infrared) // len(labels)
                losses = self.criterion(gathered(output, streams), gather_rows(labels).repeat(streams), epoch)
                losses["total"] = sum(losses.values())
                sums = sums + torch.stack([*losses.values()]).detach()
                if last:
                    stops = torch.full((1,), float(stop), device=self.device)
                    arriving = HostCopy(sum_over_ranks(torch.cat([sums, stops])))
                self.scaler.scale(losses["total"] / len(batches)).backward()
        *values, stopping = arriving.read()
        terms = {name: value / len(batches) / self.ranks.world for name, value in zip(losses, values)}
        if not math.isfinite(terms["total"]):
            self.stop_at_non_finite(terms, batches, epoch, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return terms, stopping > 0

    def stop_at_non_finite(self, terms: dict[str, float], batches: list, epoch: int, step: int) -> None:
        torch._foreach_copy_(self.buffers, self.buffers_before)
        if self.weights_are_finite():
            self.save()
            kept = f"The weights from before this step are in {self.last}"
        else:
            kept = f"The weights had become non-finite before; {self.last} holds the last good ones, if it exists"
        identities = sorted({self.batches.identities[i] for _, _, labels in batches for i in labels.tolist()})
        listed = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        raise NonFiniteLoss(
            f"the loss is not finite at epoch {epoch}, step {step}: {listed}; identities of the batch: {identities}. "
            f"{kept}. Train anew with a lower SOLVER.BASE_LR or with SOLVER.PRECISION float32, in another OUTPUT"
        )

    def weights_are_finite(self) -> bool:
        return all(bool(t.isfinite().all()) for t in self.model.state_dict().values())

    def less_memory(self) -> str:
        cfg = self.cfg
        return (
            f"A step has {cfg.SOLVER.IDENTITIES} identities with {streams_of(cfg)} x {cfg.SOLVER.IMAGES} images of "
            f"{cfg.DATA.HEIGHT}x{cfg.DATA.WIDTH} in {cfg.SOLVER.PRECISION}. With the same results: MODEL.RECOMPUTE "
            f"\"{[*self.model.parts]}\" (now {cfg.MODEL.RECOMPUTE}), which --resume accepts, or more GPUs. With "
            "others, in another OUTPUT: SOLVER.PRECISION bfloat16; a lower SOLVER.IDENTITIES or SOLVER.IMAGES, with as "
            "much more SOLVER.ACCUMULATION"
        )

    def what_judges(self, held_out: list) -> tuple[list, object] | None:
        """Records and protocol that choose the best epoch: held-out ones, or test data where that was asked for."""
        if self.cfg.SOLVER.CHOOSE_BEST_ON_TEST_DATA:
            return self.benchmark.test, self.benchmark.protocol(self.benchmark.default_protocols()[0])
        return (held_out, self.benchmark.validation(held_out)) if held_out else None

    def validate(self, stop: StopRequest) -> dict[str, float]:
        """Rank-1 and mAP on the records that choose the best epoch; of several processes, the first has them.

        raises   Stopped
        """
        records, protocol = self.judges
        if self.cfg.SOLVER.CHOOSE_BEST_ON_TEST_DATA:
            LOG.warning("choosing the best epoch by TEST data, as asked: the figures of best.pth are inflated")
        features = embed_records(self.model, records, self.cfg, self.device, self.ranks, stop)
        if features is None:
            raise Stopped(stop.by)
        if not self.ranks.first:
            return {}
        identities = [record.identity for record in records]
        weighting = next(iter(self.model.weightings))  # the reported one
        result = evaluate_protocol(
            features, identities, protocol, scale=self.model.column_scale(weighting), weighting=weighting,
            flip=self.cfg.TEST.FLIP,
        )
        return {f"validation_{name}": result["mean"][name] for name in ("rank1", "mAP")}

    def draw_curves(self) -> None:
        if self.ranks.first:
            with only_a_warning("curves.png was not drawn"):
                write_curves(self.folder)

    def save(self, best: bool = False) -> None:
        if not self.ranks.first:
            return
        state = {
            **self.state,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "identities": self.batches.identities,
        }
        try:
            if best:
                save_checkpoint(self.best, state)
            save_checkpoint(self.last, state)
        except CheckpointError as error:
            raise self.kept_elsewhere(state, error) from None

    def kept_elsewhere(self, state: dict, error: CheckpointError) -> CheckpointError:
        """What a full disk refused, kept in the system's temporary folder, if that has room; the error that says so."""
        try:
            elsewhere = Path(tempfile.mkdtemp(prefix="training-")) / "last.pth"
            save_checkpoint(elsewhere, state)
        except (OSError, CheckpointError):
            return error
        return CheckpointError(
            f"{error} What was trained up to here is in {elsewhere}: make room, move it to {self.last} and go on with "
            "--resume"
        )


def gathered(output: Output, streams: int) -> Output:
    """The output of all processes together, which the losses are of; of one process its own.

    streams   equal parts of the rows that stay one after the other, each gathered for itself: the visible images
              (plain, then exchanged ones, if there are) and the infrared ones
    """
    def gather(rows: torch.Tensor, dim: int) -> torch.Tensor:
        return gather_rows(rows.unflatten(dim, (streams, -1)), dim + 1).flatten(dim, dim + 1)

    pooled, logits = (gather(full_precision(x), dim=1) for x in (output.pooled, output.logits))
    return output._replace(pooled=pooled, logits=logits, infrared=gather(output.infrared, dim=0))


def embed_records(
    model: nn.Module, records: list, cfg, device: torch.device, ranks: Ranks = Ranks(), stop: StopRequest | None = None
) -> torch.Tensor | None:
    """(len(records), E) embeddings, each image once by one of the processes; the model is left in evaluation mode.

    stop   asked between batches; None is returned where any process was asked to stop
    """
    model.eval()
    loaders = eval_loaders(
        records, cfg.DATA.HEIGHT, cfg.DATA.WIDTH, cfg.TEST.BATCH, cfg.DATA.WORKERS, pin_memory=device.type == "cuda",
        rank=ranks.rank, world=ranks.world, worker_init_fn=start_worker,
    )

    def embed(images: torch.Tensor, infrared: bool) -> torch.Tensor:
        return model.embed(images.contiguous(memory_format=torch.channels_last), infrared, cfg.TEST.FLIP)

    with memory_advice(f"Lower TEST.BATCH, which is {cfg.TEST.BATCH}"), loader_advice(cfg.DATA.WORKERS):
        return embed_images(embed, loaders, [record.path for record in records], device, stop=stop)


EXPECTED_ERRORS = (
    ConfigError, DataError, CheckpointError, DeviceError, EvaluationError, PretrainedError, ImageSizeError, LoaderError,
    LockedError, MethodError, NonFiniteLoss, OutOfMemory, OutputError, RankLostError, RanksError,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a yaml file of configs/")
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/last.pth, if there is one")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the file's")
    args = parser.parse_intermixed_args()
    cfg, ranks = load_config(args.config, args.overrides), Ranks.from_environment()
    device = select_device(cfg.DEVICE, ranks.local)
    if ranks.first:
        require_folder(cfg.OUTPUT, "choose another OUTPUT")
    with joined(ranks, device), only_one(Path(cfg.OUTPUT), "train") if ranks.first else nullcontext():
        trainer = Trainer(cfg, args.resume, device, ranks)
        try:
            status = trainer.run()
        finally:
            trainer.draw_curves()
    if status:
        sys.exit(status)


if __name__ == "__main__":
    fail_clearly(main, EXPECTED_ERRORS)
