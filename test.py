"""Evaluate a trained network by every protocol asked for; each image is embedded once.

    python test.py --checkpoint runs/sysu
    python test.py --checkpoint runs/sysu --protocol all
    python test.py --config configs/sysu_cmfn.yaml --authors-checkpoint sysu.t DATA.ROOT datasets/SYSU-MM01
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for PYTHONSAFEPATH, and before packages of the same names

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import torch
import yaml
from torch import Tensor, nn

from configs.load import ConfigError, differences, from_dump, load_config
from data.dataset import open_benchmark
from common import weights
from models.authors_checkpoint import AuthorsCheckpointError, from_authors
from models.build import build_model
from train import EXPECTED_ERRORS, embed_records, weightings_of
from utils.training.checkpoint import CheckpointError, load_weights, read_checkpoint, read_own_checkpoint, sha256
from utils.retrieval.compress import (
    CompressionError, check_number, load_directions, principal_directions, project, save_directions,
)
from utils.evaluation.distances import distance_counts
from utils.training.distributed import Ranks, joined
from utils.evaluation.evaluator import evaluate_protocol, format_table, scaled
from utils.lock import only_one
from utils.output import require_files, write_or_keep
from utils.reporting.report import notes, only_a_warning, write_report
from utils.training.run import library_versions, select_device

# A results file that differs in these options alone holds the same figures; protocols and weightings are looked up.
CHANGES_NO_FIGURE = (
    "DEVICE", "OUTPUT", "DATA.ROOT", "DATA.WORKERS", "TEST.BATCH", "TEST.PROTOCOLS", "TEST.WEIGHTINGS",
)


def find_checkpoint(path: Path) -> Path:
    """The file itself, or of a run's folder the best checkpoint by validation, else the last."""
    if path.is_dir():
        return path / "best.pth" if (path / "best.pth").exists() else path / "last.pth"
    return path


def load_run(path: Path, overrides: list[str], complete: bool) -> tuple[nn.Module, object, dict]:
    """The network of a checkpoint of train.py, its configuration, and what results.json says of it.

    complete   refuse it where the training hasn't reached its last epoch
    """
    path = find_checkpoint(path)
    saved = read_own_checkpoint(path)
    trained = from_dump(saved["config"])
    if complete:
        last = saved if path.name == "last.pth" else read_own_checkpoint(path.with_name("last.pth"))
        if last["epoch"] < trained.SOLVER.EPOCHS:  # the best epoch needn't be the last one
            raise CheckpointError(
                f"the training in {path.parent} has done {last['epoch']} of {trained.SOLVER.EPOCHS} epochs: go on with "
                "train.py --resume"
            )
        if last.get("figures"):
            raise CheckpointError(
                f"the training in {path.parent} was stopped in its last validation: go on with train.py --resume"
            )
    cfg = load_config(overrides=overrides, base=trained)
    if cfg.DATA.NAME == trained.DATA.NAME == "regdb" and cfg.DATA.SPLIT != trained.DATA.SPLIT:
        raise CheckpointError(
            f"{path} was trained on RegDB's split {trained.DATA.SPLIT}; split {cfg.DATA.SPLIT} has a model of its own "
            "(its test people may have been trained on here)"
        )
    model = build_without_pretraining(cfg, classes=len(saved["identities"]))
    load_weights(model, saved["model"], path)
    return model, cfg, {"path": str(path), "sha256": sha256(path), "epochs": saved["epoch"], "step": saved["step"]}


def load_authors(path: Path, cfg) -> tuple[nn.Module, dict]:
    """The network of a checkpoint in the authors' format, which brings its number of classes."""
    theirs = read_checkpoint(path)
    classifier = weights.named_tensors(theirs).get("classifier.weight")
    if classifier is None or classifier.ndim != 2:
        raise CheckpointError(
            f"{path} is no checkpoint of the authors' but {weights.described(theirs)}: it has no classifier.weight"
        )
    model = build_without_pretraining(cfg, classes=len(classifier))
    try:
        model.load_state_dict(from_authors(theirs, model))
    except AuthorsCheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return model, {"path": str(path), "sha256": sha256(path), "format": "authors"}


def build_without_pretraining(cfg, classes: int) -> nn.Module:
    options = cfg.MODEL.clone()
    options.defrost()
    options.PRETRAINED = "none"
    torch.manual_seed(cfg.SEED)
    return build_model(options, classes)


def kept_results(path: Path, wanted: dict, protocols: list[str], weightings: list[str], per_query: bool) -> list | None:
    """The figures in a results file, where they are those that this evaluation would give; else None.

    wanted   what the file must say of data, checkpoint and configuration
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        results = {(r["protocol"], r["weighting"]): r for r in saved["results"]}
        kept = [results[protocol, weighting] for weighting in weightings for protocol in protocols]
        same_data = all(saved["data"][key] == value for key, value in wanted["data"].items())
        same_weights = saved["checkpoint"].get("sha256") == wanted["checkpoint"].get("sha256")
        changed = differences(*(from_dump(yaml.safe_dump(x["config"])) for x in (saved, wanted)))
        complete = not per_query or all("queries" in trial for result in kept for trial in result["trials"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # absent, cut off, or of another version
    changed = [key for key in changed if not key.startswith(CHANGES_NO_FIGURE)]
    return kept if same_data and same_weights and complete and not changed else None


def place_of_results(args, cfg, checkpoint: dict) -> Path:
    """The results file: where the user wants it, else beside the checkpoint that it is of."""
    if args.output:
        return args.output
    if "OUTPUT" in args.overrides[::2]:
        return Path(cfg.OUTPUT, "results.json")
    if "path" in checkpoint:
        return Path(checkpoint["path"]).with_name("results.json")
    trained = Path(cfg.OUTPUT, "last.pth").exists()  # whose results this control leaves alone
    return Path(cfg.OUTPUT, "results-untrained.json" if trained else "results.json")


def put_aside(path: Path, checkpoint: dict) -> None:
    """Give results of another checkpoint, or a file that holds none, another name; these take the file's place."""
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["checkpoint"]
        same = {**found, "path": None} == {**checkpoint, "path": None}
        name = found["sha256"][:8] if "sha256" in found else "untrained"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        same, name = False, "older"
    if same:
        return
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    places = (path.with_name(f"{path.stem}-{name}{ending}{path.suffix}") for ending in endings)
    aside = next(place for place in places if not place.exists())
    path.rename(aside)
    print(f"{path} held what is not of this checkpoint; it is {aside} now")


def described(weighting: str, cfg) -> str:
    """The weighting as results name it: with what compresses the embedding, if anything does."""
    return f"{weighting}, PCA {cfg.EMBEDDING.DIM}" if cfg.EMBEDDING.DIM else weighting


def learned_directions(
    model: nn.Module, weightings: list[str], train_records: Callable[[], list], cfg, checkpoint: dict,
    device: torch.device, ranks: Ranks = Ranks(),
) -> dict[str, Tensor]:
    """By weighting, the (E, EMBEDDING.DIM) directions that compress scaled embeddings; of several processes, the first.

    They are learned on the training images and kept beside the checkpoint, from where later calls take them.

    train_records   is called where that is not the case
    checkpoint      what results.json says of it
    raises          CompressionError where EMBEDDING.DIM is more than the embeddings or the training images allow
    """
    dim = cfg.EMBEDDING.DIM
    folder = Path(checkpoint["path"]).parent if "path" in checkpoint else Path(cfg.OUTPUT)
    files = {weighting: folder / f"pca-{dim}-{weighting}.pth" for weighting in weightings}
    split = cfg.DATA.SPLIT if cfg.DATA.NAME == "regdb" else 1  # no other data set reads it
    of_all = {key: value for key, value in checkpoint.items() if key != "path"} | {
        "model": cfg.MODEL.dump(), "data": [cfg.DATA.NAME, split], "flip": cfg.TEST.FLIP,
        "height": cfg.DATA.HEIGHT, "width": cfg.DATA.WIDTH,
    }
    learned_from = {weighting: of_all | {"weighting": weighting} for weighting in weightings}
    directions = {weighting: load_directions(files[weighting], learned_from[weighting]) for weighting in weightings}
    missing = [weighting for weighting in weightings if directions[weighting] is None]
    if missing:
        records = train_records()
        scales = {weighting: model.column_scale(weighting) for weighting in missing}
        for scale in scales.values():
            check_number(dim, len(records), int(scale.count_nonzero()))
        if ranks.first:
            require_files(*(files[weighting] for weighting in missing), fix="copy the run to a folder that can be written")
        features = embed_records(model, records, cfg, device, ranks)
        for weighting in missing if ranks.first else []:
            directions[weighting] = principal_directions(scaled(features, scales[weighting]), dim)
            files[weighting].parent.mkdir(parents=True, exist_ok=True)
            save_directions(files[weighting], learned_from[weighting], directions[weighting])
            print(f"PCA learned on {len(records)} training images: {files[weighting]}")
    return directions


def evaluate(
    model: nn.Module, benchmark, protocols: list, cfg, checkpoint: dict, device: torch.device, ranks: Ranks,
    per_query: bool,
) -> dict:
    """{"results": every protocol by every weighting, "distances": by the first weighting}, from one embedding pass.

    Of several processes, the first has them.
    """
    model = model.to(device, memory_format=torch.channels_last).eval()
    weightings, directions = weightings_of(model, cfg), {}
    with joined(ranks, device):
        if cfg.EMBEDDING.DIM:  # first: it refuses a copy without training images, and more numbers than there are
            directions = learned_directions(model, weightings, lambda: benchmark.train, cfg, checkpoint, device, ranks)
        features = embed_records(model, benchmark.test, cfg, device, ranks)
    if not ranks.first:
        return {}
    identities, infrared = ([getattr(record, name) for record in benchmark.test] for name in ("identity", "infrared"))
    results, distances = [], None
    for weighting in weightings:
        scale, embeddings = model.column_scale(weighting).to(device), features
        if directions:
            scale, embeddings = None, project(scaled(features, scale), directions[weighting].to(device))
        results += [
            evaluate_protocol(
                embeddings, identities, protocol, scale=scale, weighting=described(weighting, cfg),
                flip=cfg.TEST.FLIP, rerank=cfg.TEST.RERANK, per_query=per_query,
            )
            for protocol in protocols
        ]
        distances = distances or distance_counts(
            embeddings, identities, infrared, scale=scale, weighting=described(weighting, cfg)
        )
    return {"results": results, "distances": distances}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="a checkpoint of train.py, or the folder of a run")
    source.add_argument("--authors-checkpoint", type=Path, help="a checkpoint in the authors' format; needs --config")
    source.add_argument("--untrained", action="store_true", help="a network of random weights, as a control")
    parser.add_argument("--config", help="a yaml file, where the checkpoint doesn't bring its configuration")
    parser.add_argument("--protocol", action="append", metavar="NAME",
                        help="a protocol, or all; may be repeated; default: the data set's usual ones")
    parser.add_argument("--per-query", action="store_true",
                        help="store each query's figures too, for scripts/compare_results.py")
    parser.add_argument("--complete", action="store_true", help="refuse the checkpoint of an unfinished training")
    parser.add_argument("--reuse", action="store_true", help="keep a results file that holds these very figures")
    parser.add_argument("--output", type=Path, help="the results file; default: results.json beside the checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the checkpoint's or file's")
    args, ranks = parser.parse_intermixed_args(), Ranks.from_environment()

    if args.checkpoint:
        if args.config:
            raise ConfigError("--checkpoint brings its own configuration; leave --config out and set KEY VALUE pairs")
        model, cfg, checkpoint = load_run(args.checkpoint, args.overrides, args.complete)
    else:
        if not args.config:
            raise ConfigError("--authors-checkpoint and --untrained need --config")
        cfg = load_config(args.config, args.overrides)
        if args.untrained:
            model, checkpoint = None, {"untrained": True, "seed": cfg.SEED}
        else:
            model, checkpoint = load_authors(args.authors_checkpoint, cfg)

    benchmark = open_benchmark(cfg.DATA.NAME, cfg.DATA.ROOT, split=cfg.DATA.SPLIT)
    summary = benchmark.summary()
    if ranks.first:
        print(summary)
    if model is None:
        model = build_without_pretraining(cfg, classes=benchmark.training_identities())
    names = args.protocol or cfg.TEST.PROTOCOLS or benchmark.default_protocols()
    names = benchmark.available_protocols() if "all" in names else names
    protocols = [benchmark.protocol(name) for name in names]
    weightings = weightings_of(model, cfg)

    device = select_device(cfg.DEVICE, ranks.local)
    saved = {
        "data": {
            "name": cfg.DATA.NAME, "fingerprint": benchmark.fingerprint(), "test_images": len(benchmark.test),
        },
        "checkpoint": checkpoint,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": str(device),
        "versions": library_versions(),
        "config": yaml.safe_load(cfg.dump()),
        "data_summary": summary,
    }
    if args.per_query:
        saved["data"]["identities"] = [record.identity for record in benchmark.test]
    output = place_of_results(args, cfg, checkpoint)
    if ranks.first:
        require_files(output, fix="name another file by --output")
    with only_one(output.parent, "test") if ranks.first else nullcontext():
        labels = [described(weighting, cfg) for weighting in weightings]
        kept = kept_results(output, saved, names, labels, args.per_query) if args.reuse else None
        if kept is None:
            saved |= evaluate(model, benchmark, protocols, cfg, checkpoint, device, ranks, args.per_query)
        if ranks.first:
            report(output, saved, kept)


def report(output: Path, saved: dict, kept: list | None) -> None:
    """Print the figures, write them unless they are kept ones, and draw the page."""
    print(format_table(kept or saved["results"]))
    for note in notes(saved):
        print(note)
    if kept is None:
        put_aside(output, saved["checkpoint"])
        write_or_keep({output: json.dumps(saved, indent=1) + "\n"})
    print(f"results: {output}")
    with only_a_warning("there is no new report"):
        *_, page = write_report(output, json.loads(output.read_text(encoding="utf-8")))
        print(f"report:  {page}")


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, AuthorsCheckpointError, CompressionError))
