"""Searches over drawn images by an untrained network, with scripts/search.py inside the test's own process."""

import csv
import sys
from pathlib import Path

import pytest
import search
import torch
from programs import BLANK, ROOT
from thin import SHORT
from trees import write_image

from assembly.recipe import build_network
from configs.load import load_config
from utils.training.checkpoint import save_checkpoint


def checkpoint(folder: Path, name: str = "cmfn", seed: int = 0, options: list[str] = SHORT) -> Path:
    """A file as train.py writes it, of an untrained network; a short one where it is not itself what is searched by."""
    file = f"quickstart_{name}"
    cfg = load_config(ROOT / "configs" / f"{file}.yaml", [
        "DATA.WORKERS", "0", "DEVICE", "cpu", "TEST.BATCH", "4", "OUTPUT", str(folder),
        *options,
    ])
    torch.manual_seed(seed)
    model = build_network(cfg, classes=3)
    folder.mkdir(parents=True, exist_ok=True)
    state = {"config": cfg.dump(), "model": model.state_dict(), "identities": [1, 2, 3], "epoch": 1, "step": 0}
    save_checkpoint(folder / "last.pth", state)
    return folder / "last.pth"


def write_images(folder: Path, numbers) -> Path:
    for number in numbers:
        write_image(folder / f"{number:02d}.png", seed=number)
    return folder


def run(program, *arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program", *map(str, arguments)])
        patch.setattr("utils.reporting.plots.png", lambda figure: BLANK)
        program.main()


def find(checkpoint, gallery, query, output, *more) -> dict[str, list[tuple[str, float]]]:
    """{query's name: [(image's name, score), ...]} as scripts/search.py writes them."""
    run(search, "--checkpoint", checkpoint, "--gallery", gallery, "--query", query, "--output", output, *more)
    found = {}
    with open(output / "ranking.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            results = found.setdefault(Path(row["query"]).name, [])
            results.append((str(Path(row["image"]).relative_to(gallery)), float(row["score"])))
            assert row["rank"] == str(len(results))
    return found
