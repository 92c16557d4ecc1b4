"""Images of what a trained network finds, where it looks, and how it arranges people.

    python scripts/visualize.py runs/sysu_cmfn
    python scripts/visualize.py runs/sysu_cmfn --parts ranking --protocol sysu/indoor/single-shot/random --queries 8
    python scripts/visualize.py runs/sysu_cmfn DATA.ROOT datasets/SYSU-MM01 --parts attention map

docs/visualize.md shows how to read them. The map needs scikit-learn: pip install -r requirements-optional.txt.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from yacs.config import CfgNode

from assembly.attention import GRAD_CAM, OF_THE_METHOD, attention_picture, titled_modules
from assembly.embedding import described, embed_records, embed_versions, weighing
from assembly.embedding_map import MissingLibrary, map_picture, require_tsne
from assembly.errors import EXPECTED_ERRORS
from assembly.ranking_sheets import ranking_picture
from assembly.recipe import build_network, require_any_pair, weightings_of
from assembly.results import tested_elsewhere
from assembly.titles import method_title
from assembly.trained import find_checkpoint, load_run, open_tested
from common.words import how_many
from data.records import DataError, Record
from models.network import Network
from models.parts.backbone import PretrainedError
from utils.arguments import count
from utils.evaluation.evaluator import check_reranking, scaled
from utils.output import OutputError, require_files
from utils.reporting.report import ReportError, import_plots
from utils.reporting.sheets import SheetError, save
from utils.retrieval.compress import CompressionError
from utils.training.checkpoint import read_own_checkpoint
from utils.training.run import select_device

PARTS = ("ranking", "attention", "map")


def modalities(records: Sequence[Record]) -> list[bool]:
    """Of the records: whether infrared."""
    return sorted({record.infrared for record in records})


def people(records: Sequence[Record], number: int, seed: int) -> list[int]:
    """Some identities that every modality of the records shows, drawn with the seed, ascending."""
    seen = [{r.identity for r in records if r.infrared == infrared} for infrared in modalities(records)]
    shown = sorted(set.intersection(*seen))
    return sorted(np.random.default_rng(seed).permutation(shown)[:number].tolist())


def images_of(records: Sequence[Record], identity: int, infrared: bool, number: int, seed: int) -> list[int]:
    """Rows of some images of a person in one modality, drawn with the seed, ascending."""
    rows = [row for row, r in enumerate(records) if (r.identity, r.infrared) == (identity, infrared)]
    return sorted(np.random.default_rng((seed, identity)).permutation(rows)[:number].tolist())


def network_before_training(cfg: CfgNode, classes: int) -> tuple[Network, str]:
    """The network that the training began with, and what its weights are: random where the pretrained ones are gone."""
    if cfg.MODEL.PRETRAINED != "none":
        try:
            return build_network(cfg, classes), "pretrained backbone"
        except PretrainedError as error:
            print(f"the map's left panel shows random weights: {error}")
    return build_network(cfg, classes, pretrained=False), "random weights"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run, or a checkpoint of train.py")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS,
                        help="which pictures (default: all); KEY VALUE pairs go before it")
    parser.add_argument("--protocol", metavar="NAME", help="of the ranking; default: the data set's first")
    parser.add_argument("--queries", type=count(0), default=4, help="random queries beside the best and the worst")
    parser.add_argument("--top", type=count(1), default=10, help="images shown for each query")
    parser.add_argument("--identities", type=count(1), default=2, help="people on the attention sheet")
    parser.add_argument("--map-identities", type=count(1), default=20, help="people on the map")
    parser.add_argument("--map-images", type=count(1), default=8, help="images of each person and modality on the map")
    parser.add_argument("--seed", type=count(0), default=0, help="of the queries, people and images that are drawn")
    parser.add_argument("--format", choices=("png", "jpg"), default="png")
    parser.add_argument("--output", type=Path, help="folder of the pictures; default: pictures in the run's folder")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the checkpoint's")
    return parser.parse_intermixed_args()


def main() -> None:
    args = arguments()
    import_plots()  # what is not installed is named before minutes are spent on the rest
    if "map" in args.parts:
        require_tsne()
    folder = args.output or (args.run if args.run.is_dir() else args.run.parent) / "pictures"
    require_files(*(folder / f"{part}.{args.format}" for part in args.parts), fix="choose another --output")
    model, cfg, checkpoint = load_run(args.run, args.overrides, complete=False)
    if "map" in args.parts:
        require_any_pair(model, "a map")
    benchmark, device = open_tested(cfg, checkpoint), select_device(cfg.DEVICE)
    protocol, records = benchmark.protocol(args.protocol or benchmark.default_protocols()[0]), benchmark.test
    if "map" in args.parts and len(modalities(records)) < 2:
        raise DataError(
            f"a map shows both modalities, and {cfg.DATA.NAME} has one: --parts ranking attention leaves it out"
        )
    if "ranking" in args.parts:
        infrared, aim = [record.infrared for record in records], (cfg.TEST.AIM.K1, cfg.TEST.AIM.K2)
        check_reranking(cfg.TEST.RERANK, [protocol], infrared, aim)
    weighting = weightings_of(model, cfg)[0]
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    if {"ranking", "map"} & {*args.parts}:
        ranked = weighing(model, weighting, cfg, checkpoint, lambda: benchmark.train, device)

    def keep(image: Image.Image, name: str) -> None:
        path = folder / f"{name}.{args.format}"
        save(image, path)
        print(path)

    def embed(chosen: Sequence[Record]) -> Tensor:
        return ranked(embed_records(model, chosen, cfg, device))

    features = None
    if "ranking" in args.parts:
        features, versions = embed(records), embed_versions(model, records, cfg, device)
        keep(ranking_picture(
            features, records, protocol, weighting=described(weighting, cfg), flip=cfg.TEST.FLIP,
            rerank=cfg.TEST.RERANK, versions=versions and versions.of(ranked), aim=aim,
            trained_on=tested_elsewhere(cfg, checkpoint), random=args.queries, seed=args.seed, top=args.top,
        ), "ranking")

    epochs = how_many(checkpoint["epochs"], "epoch")
    trained = f"{method_title(cfg.MODEL)} on {checkpoint['trained_on']['name']}, {epochs}"
    if "attention" in args.parts:
        shown = [*titled_modules(model), *model.own_maps(), *[GRAD_CAM] * (model.last_map() is not None)]
        absent = [name for name in OF_THE_METHOD if f"{name} 1" not in shown]
        if absent:
            print(f"{method_title(cfg.MODEL)} has no {', no '.join(absent)}; shown: {', '.join(shown)}")
        pairs = [
            [records[images_of(records, identity, infrared, 1, args.seed)[0]] for infrared in modalities(records)]
            for identity in people(records, args.identities, args.seed)
        ]
        title = f"{trained}: yellow is much, purple is little; below each map its least and its greatest value"
        trained_on = read_own_checkpoint(find_checkpoint(args.run))["identities"]
        size, resize = (cfg.DATA.HEIGHT, cfg.DATA.WIDTH), cfg.DATA.RESIZE
        keep(attention_picture(model, pairs, trained_on, *size, device, title, resize), "attention")

    if "map" in args.parts:
        rows = [
            row for identity in people(records, args.map_identities, args.seed) for infrared in modalities(records)
            for row in images_of(records, identity, infrared, args.map_images, args.seed)
        ]
        chosen = [records[row] for row in rows]
        after = features[rows] if features is not None else embed(chosen)
        untrained, weights = network_before_training(cfg, classes=model.classes)
        scale = model.column_scale(weighting).to(device)
        before = embed_records(untrained.to(device).to(memory_format=torch.channels_last), chosen, cfg, device)
        panels = [
            (f"before training ({weights}), weighting {weighting}", scaled(before, scale)),
            (f"after training, weighting {described(weighting, cfg)}", after),
        ]
        number = len({record.identity for record in chosen})
        title = (
            f"{trained}: t-SNE of {how_many(len(chosen), 'test image')} of {how_many(number, 'person', 'people')}, "
            "a colour for each"
        )
        keep(map_picture(panels, chosen, args.seed, title), "map")


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, CompressionError, MissingLibrary, OutputError, ReportError, SheetError))
