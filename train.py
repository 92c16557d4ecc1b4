"""Train a network on a data set.

    python train.py --config configs/sysu_cmfn.yaml DATA.ROOT datasets/SYSU-MM01 OUTPUT runs/sysu
    python train.py --config configs/sysu_cmfn.yaml OUTPUT runs/sysu --resume
    torchrun --nproc_per_node 2 train.py --config configs/sysu_cmfn.yaml OUTPUT runs/sysu    # on two GPUs
    python train.py --explain agw                                                            # the options of a method
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for PYTHONSAFEPATH, and before packages of the same names

from utils.stop import Stopped, StopRequest, fail_clearly, stop_in_one_line, stop_status

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import torch
from torch import nn
from tqdm import tqdm
from yacs.config import CfgNode

from assembly.errors import EXPECTED_ERRORS
from assembly.recipe import (
    body_shapes,
    build_loss,
    build_network,
    cached_images,
    check_together,
    faster_reading,
    layout_of,
    less_memory,
    train_batches,
    train_loader,
)
from assembly.trained import check_same_run, fingerprints_of
from assembly.update import NonFiniteLoss, NonFiniteTerms, Update, refuse_terms
from assembly.validation import Validation
from common.batch import Batch
from common.words import how_many
from configs.load import as_yaml, explained, load_config
from data.dataset import hold_out, open_data
from utils.lock import only_one
from utils.output import require_folder, write_atomically
from utils.reporting.report import only_a_warning, write_curves
from utils.training.checkpoint import load_weights
from utils.training.compiling import compile_training_pass
from utils.training.distributed import ALONE, Ranks, joined, sum_over_ranks
from utils.training.loaders import loader_advice
from utils.training.optimizer import kept_per_parameter, part_of_epoch
from utils.training.run import LOG, Metrics, keep_log, memory_advice, select_algorithms, select_device, start_log
from utils.training.saving import Saving


class Trainer:
    """Everything a training holds, assembled once; `run` is the loop.

    Of several processes (torchrun), each takes its part of a batch's identities; the first alone writes.
    """

    def __init__(self, cfg: CfgNode, resume: bool, device: torch.device, ranks: Ranks = ALONE):
        check_together(cfg, device)
        self.cfg, self.folder, self.device, self.ranks = cfg, Path(cfg.OUTPUT), device, ranks
        self.saving = Saving(self.folder)
        saved = self.saving.found(resume)
        if saved is not None:
            check_same_run(saved, cfg, self.saving.last)
        start_log(self.folder, ranks.first)
        select_algorithms(cfg.DETERMINISTIC, cfg.SOLVER.TF32)

        self.benchmark = open_data(cfg.DATA)
        LOG.info("%s", self.benchmark.summary())
        own = self.benchmark.held_out
        records, held_out = hold_out(self.benchmark.train, cfg.SOLVER.VALIDATION_IDS, cfg.SEED, own)
        self.validation = Validation(cfg, self.benchmark, held_out)
        shapes = body_shapes(cfg, self.benchmark)
        fingerprints = fingerprints_of({"data": self.benchmark, "shapes": shapes}, saved, self.saving.last)
        for name in {*cfg.TEST.PROTOCOLS} - {"all"}:
            self.benchmark.protocol(name)  # refuses an unknown one
        self.batches = train_batches(cfg, records, ranks, cached_images(cfg, self.benchmark), shapes)

        # Of a checkpoint, the weights replace those of ImageNet anyway.
        model = build_network(cfg, len(self.batches.identities), pretrained=saved is None)
        if cfg.SOLVER.SYNC_BN:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(device).to(memory_format=layout_of(cfg))
        self.compiled = cfg.SOLVER.COMPILE != "none" and compile_training_pass(self.model, cfg.SOLVER.COMPILE, device)
        self.update = Update(cfg, self.model, build_loss(cfg), device, ranks)

        # "figures" are those of the last epoch where it is trained, but not validated yet.
        self.state = {
            "epoch": 0, "step": 0, "sums": {}, "figures": {}, "best": -1.0, **fingerprints, "config": self.cfg.dump(),
        }
        if saved is not None:
            load_weights(self.model, saved["model"], self.saving.last)
            self.update.load_state_dict(saved)
            self.state |= {key: saved[key] for key in self.state if key in saved and key != "config"}
        if ranks.first:
            room = self.saving.room(self.model, kept_per_parameter(cfg.SOLVER), best=bool(self.validation))
            require_folder(self.folder, "choose another OUTPUT", room=room)
            keep_log()  # nothing is written before: a training that is refused leaves all as it was
            write_atomically(self.folder / "config.yaml", as_yaml(cfg))
        self.metrics = Metrics(self.folder, self.state["epoch"]) if ranks.first else None
        if ranks.world > 1:
            self.update.share_gradients()

    def run(self) -> int:
        """Train to the end, or to a stop; returns the program's exit status."""
        solver, state, last = self.cfg.SOLVER, self.state, self.saving.last
        LOG.info(
            "%s, %s an epoch, %s%s", how_many(len(self.batches.identities), "identity", "identities"),
            how_many(self.batches.updates(state["epoch"]), "update"), self.device,
            f", {self.ranks.world} processes" if self.ranks.world > 1 else "",
        )
        if state["epoch"] >= solver.EPOCHS and not state["figures"]:
            LOG.info("the training was complete already: %s", last)
            return 0
        if state["epoch"] or state["step"]:
            LOG.info("resuming from %s at epoch %d, step %d", last, state["epoch"], state["step"])
        with StopRequest() as stop, loader_advice(self.cfg.DATA.WORKERS):
            try:
                self.train(stop)
            except Stopped as stopped:
                LOG.info("stopped by %s; go on with the same command and --resume", stopped.by or "another process")
                return stop_status(stopped.by)
        LOG.info("training is complete: %s", self.saving.best if self.saving.best.exists() else last)
        return 0

    def train(self, stop: StopRequest) -> None:
        """All epochs to come.

        raises   Stopped, with the state saved
        """
        state = self.state
        if state["figures"]:  # the stop came between the training of an epoch and the end of its validation
            self.finish_epoch(stop)
        loader = iter(train_loader(self.batches, self.cfg, state["epoch"], state["step"], self.device))
        first = state["epoch"]
        for epoch in range(first, self.cfg.SOLVER.EPOCHS):
            rate = self.update.set_rate(epoch)
            figures = self.train_epoch(epoch, loader, stop)
            if figures is None:
                self.save()
                raise Stopped(stop.by)
            self.update.require_finite_weights(epoch, self.saving.last)
            state |= {"epoch": epoch + 1, "step": 0, "sums": {}, "figures": figures | {"lr": rate}}
            self.finish_epoch(stop)
            if epoch == first and figures.get("waiting", 0.0) > 0.2:
                LOG.info(faster_reading(self.cfg, figures["waiting"]))

    def train_epoch(self, epoch: int, loader: Iterator[Batch], stop: StopRequest) -> dict[str, float] | None:
        """Train until the epoch's end: the means of the loss terms, and the speed; None where a stop was asked for.

        `waiting` is the part of the time in which the next images were not there yet.
        """
        self.model.train()
        sums, first, updates = self.state["sums"], self.state["step"], self.batches.updates(epoch)
        announced = self.batches.announced(epoch)
        begun, images, waited, advice = time.perf_counter(), 0, 0.0, less_memory(self.cfg, self.model.parts)
        each, left = self.cfg.SOLVER.ACCUMULATION, self.batches.length(epoch) - first * self.cfg.SOLVER.ACCUMULATION
        steps = tqdm(
            range(first, updates), f"epoch {epoch}", updates, initial=first, leave=False,
            disable=None if self.ranks.first else True,  # None: where there is no terminal
        )
        for step in steps:
            self.update.set_rate(epoch, part_of_epoch(step, announced, self.cfg.SOLVER))
            with memory_advice(advice):
                asked = time.perf_counter()
                batches, read = [next(loader) for _ in range(min(each, left))], time.perf_counter()
                waited += read - asked if step > first else 0.0  # the first one also waits for the loader to start
                terms, stopping = self.step(batches, epoch, step, bool(stop))
            if self.compiled:
                LOG.info("the first update took %.1f s, in which the network was compiled", time.perf_counter() - read)
                self.compiled = False
            if epoch == step == 0:  # for scripts/compare_with_log.py
                LOG.info("first update: %s", as_text(terms))
            left -= len(batches)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            self.state["step"] = step + 1
            images += sum(map(len, batches)) * self.ranks.world
            elapsed = time.perf_counter() - begun
            speed = images / elapsed
            if step % self.cfg.SOLVER.LOG_PERIOD == 0:
                steps.set_postfix({**{k: f"{v:.3f}" for k, v in terms.items()}, "images/s": f"{speed:.0f}"})
            if stopping:
                return None
        figures = {name: total / self.state["step"] for name, total in sums.items()}
        return figures | ({"images_per_second": speed, "waiting": waited / elapsed} if images else {})

    def step(self, batches: list, epoch: int, step: int, stop: bool) -> tuple[dict[str, float], bool]:
        """One update (assembly/update.py).

        raises   NonFiniteLoss before it, with the weights of before saved
        """
        try:
            return self.update(batches, epoch, step, stop)
        except NonFiniteTerms as found:
            good = self.update.weights_are_finite()
            if good:
                self.save()
            refuse_terms(found, epoch, step, self.batches.identities_of(batches), self.saving.last, good)

    def finish_epoch(self, stop: StopRequest) -> None:
        """Validate where it is time to, save, and write the figures of the last epoch.

        raises   Stopped, with the state saved
        """
        solver, state = self.cfg.SOLVER, self.state
        epoch, figures, improved = state["epoch"] - 1, state["figures"], False
        periodic, last = state["epoch"] % solver.EVAL_PERIOD == 0, state["epoch"] == solver.EPOCHS
        if (periodic or last) and self.validation:
            self.save()  # what was trained is safe now, however the validation ends
            judged = self.validation.figures(self.model, self.device, self.ranks, stop)
            if judged is None:
                raise Stopped(stop.by)
            figures = figures | judged
            improved = figures.get("validation_mAP", -1.0) > state["best"]
        if improved:
            state["best"] = figures["validation_mAP"]
        state["figures"] = {}
        if self.metrics:  # before the checkpoint: without it, resuming drops the line, and trains the epoch again
            self.metrics.write(epoch, figures)
        self.save(best=improved)
        LOG.info("epoch %d: %s", epoch, as_text(figures))
        if periodic and not last:
            self.draw_curves()  # to be looked at while it trains; `main` draws the last ones
        if sum_over_ranks(torch.full((1,), float(bool(stop)), device=self.device)).item() > 0:
            raise Stopped(stop.by)  # any process that was asked to stop stops all

    def draw_curves(self) -> None:
        if self.ranks.first:
            with only_a_warning("curves.png was not drawn"):
                write_curves(self.folder)

    def save(self, best: bool = False) -> None:
        if self.ranks.first:
            state = {
                **self.state, "model": self.model.state_dict(), **self.update.state_dict(),
                "identities": self.batches.identities,
            }
            self.saving.save(state, best)


def as_text(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="a yaml file of configs/")
    parser.add_argument(
        "--explain", metavar="METHOD", help="print the options that a method reads, with its recipe's values, and end"
    )
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/last.pth, if there is one")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the file's")
    args = parser.parse_intermixed_args()
    if args.explain:
        print(explained(args.explain))
        return
    if not args.config:
        parser.error("the following arguments are required: --config")
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
    fail_clearly(main, (*EXPECTED_ERRORS, NonFiniteLoss))
