"""Where an evaluation fails, as one page: by person and camera, who is taken for whom, and what two networks differ in.

    python scripts/failures.py runs/sysu_cmfn                                  # runs/sysu_cmfn/failures.html
    python scripts/failures.py runs/sysu_cmfn --against runs/sysu_agw --protocol sysu/indoor/single-shot/random
    python scripts/failures.py runs/sysu_cmfn --output page.html DATA.ROOT datasets/SYSU-MM01

The test images are embedded anew and ranked as test.py ranks them. docs/visualize.md says how to read the page.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import torch
from PIL import Image
from yacs.config import CfgNode

from assembly.embedding import described, embed_records, embed_versions, weighing
from assembly.errors import EXPECTED_ERRORS
from assembly.recipe import require_any_pair, weightings_of
from assembly.results import tested_elsewhere
from assembly.titles import method_title
from assembly.trained import data_options, load_run, open_tested
from common.words import how_many
from data.pixels import open_image
from data.records import Benchmark, Protocol
from models.network import Network
from utils.arguments import count
from utils.evaluation.evaluator import check_reranking, similarities_by
from utils.evaluation.failures import pair_distances, search_all
from utils.output import OutputError, require_files, write_or_keep
from utils.reporting.failures import HEIGHT, WIDTH, Run, failures_page
from utils.reporting.report import ReportError, import_plots, notes
from utils.retrieval.compress import CompressionError
from utils.training.run import select_device

MOST_PAIRS = 40  # some 3 kB an image, of which each pair has three

Loaded = tuple[Network, CfgNode, dict]  # of `load_run`


class FailuresError(ValueError):
    """What cannot be shown; the message says why, and what to do."""


@torch.inference_mode()
def searched(
    name: str, path: Path, loaded: Loaded, benchmark: Benchmark, protocol: Protocol
) -> tuple[Run, str, list[str]]:
    """What a network finds, the setting of its figures, and what must be known to read them.

    name     of the network on the page
    loaded   of `load_run`
    """
    model, cfg, checkpoint = loaded
    records, device, weighting = benchmark.test, select_device(cfg.DEVICE), weightings_of(model, cfg)[0]
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    weighed = weighing(model, weighting, cfg, checkpoint, lambda: benchmark.train, device)
    features = weighed(embed_records(model, records, cfg, device))
    versions = embed_versions(model, records, cfg, device)
    similarities, by = similarities_by(
        cfg.TEST.RERANK, protocol.name, versions and versions.of(weighed), (cfg.TEST.AIM.K1, cfg.TEST.AIM.K2)
    )
    identities = [record.identity for record in records]
    searches = search_all(features, identities, [record.camera for record in records], protocol, similarities)
    distances = None if model.only_across else pair_distances(features, identities, protocol)
    elsewhere = tested_elsewhere(cfg, checkpoint)
    result = {"rerank": by != "none" and by, "trained_on": elsewhere}
    known = notes({
        "data": {"name": cfg.DATA.NAME}, "checkpoint": checkpoint, "results": [result], "config": cfg,
        "data_summary": benchmark.summary(),
    })
    setting = f"{described(weighting, cfg)}, {'with' if cfg.TEST.FLIP else 'without'} mirrored images"
    setting += f", re-ranked by {by}" * (by != "none") + f", trained on {elsewhere}" * bool(elsewhere)
    folder = path if path.is_dir() else path.parent
    return Run(f"{name}{method_title(cfg.MODEL)} ({folder.name})", searches, distances), setting, known


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run, or a checkpoint of train.py")
    parser.add_argument("--against", type=Path, metavar="RUN", help="another one, on the same queries")
    parser.add_argument("--protocol", metavar="NAME", help="default: the data set's first")
    parser.add_argument("--pairs", type=count(0), default=12, help=f"of people with images, {MOST_PAIRS} at most")
    parser.add_argument("--output", type=Path, help="the page; default: failures.html in the run's folder")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the checkpoints'")
    return parser.parse_intermixed_args()


def all_loaded(paths: Sequence[Path], overrides: list[str]) -> list[Loaded]:
    """`load_run` of each, the later ones on the data of the first."""
    loaded: list[Loaded] = []
    for path in paths:
        there = data_options(loaded[0][1].DATA) if loaded else []
        loaded.append(load_run(path, [*overrides, *there], complete=False))
    return loaded


def main() -> None:
    args = arguments()
    import_plots()  # what is not installed is named before minutes are spent on the rest
    if args.pairs > MOST_PAIRS:
        raise FailuresError(f"--pairs is {args.pairs}, and the page, which holds all images, has {MOST_PAIRS} at most")
    paths = [args.run, *([args.against] if args.against else [])]
    output = args.output or (args.run if args.run.is_dir() else args.run.parent) / "failures.html"
    require_files(output, fix="choose another --output")
    loaded = all_loaded(paths, args.overrides)
    benchmark, *_ = [open_tested(cfg, checkpoint) for _, cfg, checkpoint in loaded]
    cfg = loaded[0][1]
    protocol, records = benchmark.protocol(args.protocol or benchmark.default_protocols()[0]), benchmark.test
    for model, own, _ in loaded:
        infrared = [record.infrared for record in records]
        check_reranking(own.TEST.RERANK, [protocol], infrared, (own.TEST.AIM.K1, own.TEST.AIM.K2))
        if protocol.name in benchmark.one_modality_protocols():
            require_any_pair(model, protocol.name)
        for option, wanted in (("TEST.RERANK", own.TEST.RERANK != "none"), ("EMBEDDING.DIM", own.EMBEDDING.DIM)):
            if wanted:
                require_any_pair(model, option)

    names = ["A: ", "B: "] if args.against else [""]
    runs, settings, known = zip(*(
        searched(name, path, one, benchmark, protocol) for name, path, one in zip(names, paths, loaded)
    ))
    trials = len(protocol.trials)
    setting = f"{protocol.name}, {how_many(trials, 'gallery', 'galleries')}; "
    setting += "; ".join(f"{name}weighting {words}" for name, words in zip(names, settings))

    def image(row: int) -> Image.Image:
        return Image.fromarray(open_image(records[row].path, HEIGHT, WIDTH))

    page = failures_page(
        runs, [record.identity for record in records], [record.camera for record in records],
        [record.infrared for record in records], image,
        title=f"Where {' and '.join(run.name for run in runs)} fail{'s' * (len(runs) == 1)} on {cfg.DATA.NAME}",
        setting=setting, notes=[*dict.fromkeys(note for of_run in known for note in of_run)], pairs=args.pairs,
    )
    write_or_keep({output: page})
    for run, words in zip(runs, settings):
        hits, ap = run.searches.hit, run.searches.ap
        print(
            f"{run.name}: {how_many(len(hits), 'search', 'searches')}, Rank-1 {100 * hits.mean():.2f}, mAP "
            f"{100 * ap.mean():.2f} ({words})"
        )
    print(f"page: {output}, {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, CompressionError, FailuresError, OutputError, ReportError))
