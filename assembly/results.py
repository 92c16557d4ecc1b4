"""A results file of test.py: where it lies, what in it is still valid, what makes place for it."""

import itertools
import json
from pathlib import Path

import torch
import yaml
from yacs.config import CfgNode

from configs.load import differences, from_dump
from data.dataset import has_splits
from data.records import Benchmark
from models.network import Network
from utils.training.run import library_versions

# A results file that differs in these options alone holds the same figures; protocols and weightings are looked up.
CHANGES_NO_FIGURE = (
    "DEVICE", "OUTPUT", "DATA.ROOT", "DATA.WORKERS", "TEST.BATCH", "TEST.PROTOCOLS", "TEST.WEIGHTINGS",
)

ANY = {"path": None, "trained_on": None}  # of what results say of a checkpoint: a checksum tells which it is


def tested_elsewhere(cfg: CfgNode, checkpoint: dict) -> str:
    """The data set that a network was trained on, where it is tested on another one; "" otherwise.

    checkpoint   what results.json says of it
    """
    trained = checkpoint.get("trained_on", {}).get("name", cfg.DATA.NAME)
    return trained if trained != cfg.DATA.NAME else ""


def tested(model: Network, checkpoint: dict, benchmark: Benchmark, cfg: CfgNode, device: torch.device) -> dict:
    """What a results file says of network, data and machine, before any figure.

    checkpoint   which it is: as `load_run` describes it
    """
    return {
        "data": {
            "name": cfg.DATA.NAME, "fingerprint": benchmark.fingerprint(), "test_images": len(benchmark.test),
        },
        "checkpoint": checkpoint,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": str(device),
        "versions": library_versions(),
        "config": yaml.safe_load(cfg.dump()),
        "data_summary": benchmark.summary(),
    }


def wanted_protocols(
    asked: list[str] | None, overrides: list[str], cfg: CfgNode, checkpoint: dict, benchmark: Benchmark
) -> list[str]:
    """Names of protocols, each once; those of the configuration mean nothing on another data set than the training's.

    asked        names, `all` or `one-modality`; None: those of the configuration, or else the data set's usual ones
    overrides    options on the command line
    checkpoint   what results.json says of it
    """
    own = "TEST.PROTOCOLS" in overrides[::2] or not tested_elsewhere(cfg, checkpoint)
    names = asked or (own and cfg.TEST.PROTOCOLS) or benchmark.default_protocols()
    groups = {"all": benchmark.available_protocols(), "one-modality": benchmark.one_modality_protocols()}
    return [*dict.fromkeys(name for wanted in names for name in groups.get(wanted, [wanted]))]


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


def place_of_results(output: Path | None, overrides: list[str], cfg: CfgNode, checkpoint: dict) -> Path:
    """The results file: where the user wants it, else beside the checkpoint that it is of.

    output, overrides   of the command line
    checkpoint          what results.json says of it
    """
    if output:
        return output
    if "OUTPUT" in overrides[::2]:
        return Path(cfg.OUTPUT, "results.json")
    if "path" in checkpoint:
        split = f"-{cfg.DATA.SPLIT}" if has_splits(cfg.DATA.NAME) else ""
        elsewhere = f"-on-{cfg.DATA.NAME}{split}" if tested_elsewhere(cfg, checkpoint) else ""
        return Path(checkpoint["path"]).with_name(f"results{elsewhere}.json")
    trained = Path(cfg.OUTPUT, "last.pth").exists()  # whose results this control leaves alone
    return Path(cfg.OUTPUT, "results-untrained.json" if trained else "results.json")


def put_aside(path: Path, checkpoint: dict) -> None:
    """Give results of another checkpoint, or a file that holds none, another name; these take the file's place."""
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["checkpoint"]
        same = {**found, **ANY} == {**checkpoint, **ANY}
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
