"""Evaluate a trained network by every protocol asked for; each image is embedded once.

    python test.py --checkpoint runs/sysu
    python test.py --checkpoint runs/sysu --protocol all
    python test.py --checkpoint runs/sysu DATA.NAME llcm DATA.ROOT datasets/LLCM      # on other data than trained on
    python test.py --config configs/sysu_cmfn.yaml --authors-checkpoint sysu.t DATA.ROOT datasets/SYSU-MM01
"""

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for PYTHONSAFEPATH, and before packages of the same names

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import torch
from torch import Tensor
from yacs.config import CfgNode

from assembly.embedding import compressed, described, embed_records, embed_versions, learned_directions
from assembly.errors import EXPECTED_ERRORS
from assembly.recipe import build_network, require_any_pair, weightings_of
from assembly.results import kept_results, place_of_results, put_aside, tested, tested_elsewhere, wanted_protocols
from assembly.titles import method_title
from assembly.trained import load_authors, load_run, open_tested
from configs.load import ConfigError, load_config
from data.records import Benchmark, Protocol
from models.authors_checkpoint import AuthorsCheckpointError
from models.network import Network
from utils.evaluation.distances import distance_counts
from utils.evaluation.evaluator import check_reranking, evaluate_protocol, format_table
from utils.lock import only_one
from utils.output import require_files, write_or_keep
from utils.reporting.report import notes, only_a_warning, write_report
from utils.retrieval.compress import CompressionError
from utils.training.distributed import Ranks, joined
from utils.training.run import select_device


def evaluate(
    model: Network, benchmark: Benchmark, protocols: list[Protocol], cfg: CfgNode, checkpoint: dict,
    device: torch.device, ranks: Ranks, per_query: bool,
) -> dict:
    """{"results": every protocol by every weighting, "distances": by the first weighting}, from one embedding pass.

    Of several processes, the first has them.
    """
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    weightings, directions = weightings_of(model, cfg), {}
    for option, wanted in (("TEST.RERANK", cfg.TEST.RERANK != "none"), ("EMBEDDING.DIM", cfg.EMBEDDING.DIM)):
        if wanted:
            require_any_pair(model, option)
    with joined(ranks, device):
        if cfg.EMBEDDING.DIM:  # first: it refuses a copy without training images, and more numbers than there are
            directions = learned_directions(model, weightings, lambda: benchmark.train, cfg, checkpoint, device, ranks)
        features = embed_records(model, benchmark.test, cfg, device, ranks)
        versions = embed_versions(model, benchmark.test, cfg, device, ranks)
    if not ranks.first:
        return {}
    identities, infrared = ([getattr(record, name) for record in benchmark.test] for name in ("identity", "infrared"))
    results, distances = [], None
    for weighting in weightings:
        scale: Tensor | None = model.column_scale(weighting).to(device)
        embeddings, shown = features, versions
        if directions:
            embeddings, shown = compressed(features, versions, scale, directions[weighting].to(device))
            scale = None
        results += [
            evaluate_protocol(
                embeddings, identities, protocol, scale=scale, weighting=described(weighting, cfg),
                flip=cfg.TEST.FLIP, rerank=cfg.TEST.RERANK, versions=shown, aim=(cfg.TEST.AIM.K1, cfg.TEST.AIM.K2),
                trained_on=tested_elsewhere(cfg, checkpoint), per_query=per_query,
            )
            for protocol in protocols
        ]
        if not distances and not model.only_across:
            distances = distance_counts(
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
                        help="a protocol, all (across modalities) or one-modality; may be repeated; default: the data "
                        "set's usual ones")
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
            model, checkpoint = load_authors(args.authors_checkpoint, cfg, trained=load_config(args.config))

    benchmark = open_tested(cfg, checkpoint)
    if ranks.first:
        print(benchmark.summary())
    if model is None:
        model = build_network(cfg, benchmark.training_identities(), pretrained=False)
    wanted = wanted_protocols(args.protocol, args.overrides, cfg, checkpoint, benchmark)
    protocols = [benchmark.protocol(name) for name in wanted]
    names, weightings = [protocol.name for protocol in protocols], weightings_of(model, cfg)
    for name in {*names} & {*benchmark.one_modality_protocols()}:
        require_any_pair(model, name)
    infrared = [record.infrared for record in benchmark.test]
    check_reranking(cfg.TEST.RERANK, protocols, infrared, (cfg.TEST.AIM.K1, cfg.TEST.AIM.K2))

    device = select_device(cfg.DEVICE, ranks.local)
    saved = tested(model, checkpoint, benchmark, cfg, device)
    if args.per_query:
        saved["data"]["identities"] = [record.identity for record in benchmark.test]
    output = place_of_results(args.output, args.overrides, cfg, checkpoint)
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
        *_, page = write_report(
            output, json.loads(output.read_text(encoding="utf-8")), method_title(saved["config"]["MODEL"])
        )
        print(f"report:  {page}")


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, AuthorsCheckpointError, CompressionError))
