"""Networks of checkpoints: of train.py, and of the methods' authors."""

from pathlib import Path

import yaml
from yacs.config import CfgNode

from assembly.recipe import build_network, image_size
from common import weights
from common.words import how_many
from configs.load import differences, from_dump, is_read, load_config
from data.dataset import has_splits, is_own, open_data
from data.records import Benchmark
from models.authors_checkpoint import AuthorsCheckpointError, from_authors
from models.build import class_of
from models.network import Network
from utils.training.checkpoint import CheckpointError, load_weights, read_checkpoint, read_own_checkpoint, sha256


def find_checkpoint(path: Path) -> Path:
    """The file itself, or of a run's folder the best checkpoint by validation, else the last."""
    if path.is_dir():
        return path / "best.pth" if (path / "best.pth").exists() else path / "last.pth"
    return path


def load_run(path: Path, overrides: list[str], complete: bool) -> tuple[Network, CfgNode, dict]:
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
                f"the training in {path.parent} has done {last['epoch']} of "
                f"{how_many(trained.SOLVER.EPOCHS, 'epoch')}: go on with train.py --resume"
            )
        if last.get("figures"):
            raise CheckpointError(
                f"the training in {path.parent} was stopped in its last validation: go on with train.py --resume"
            )
    cfg = load_config(overrides=overrides, base=trained)
    if cfg.DATA.NAME == trained.DATA.NAME and has_splits(cfg.DATA.NAME) and cfg.DATA.SPLIT != trained.DATA.SPLIT:
        raise CheckpointError(
            f"{path} was trained on split {trained.DATA.SPLIT} of {cfg.DATA.NAME}; split {cfg.DATA.SPLIT} has a model "
            "of its own (its test people may have been trained on here)"
        )
    size, wanted = image_size(trained), image_size(cfg)
    if size != wanted and class_of(cfg.MODEL).reads_size:
        raise CheckpointError(
            f"{path} was trained on images of {size[0]}x{size[1]}, and its network takes no others: leave DATA.HEIGHT "
            f"and DATA.WIDTH, which are {wanted[0]} and {wanted[1]}, as in the training"
        )
    model = build_network(cfg, classes=len(saved["identities"]), pretrained=False)
    load_weights(model, saved["model"], path)
    return model, cfg, {
        "path": str(path), "sha256": sha256(path), "epochs": saved["epoch"], "step": saved["step"],
        "trained_on": data_of(trained.DATA, saved.get("data")),
    }


def fingerprints_of(parts: dict[str, Benchmark | None], saved: dict | None, path: Path) -> dict[str, str | None]:
    """Of what a training reads, by the name under which a checkpoint has them; None of what it doesn't read.

    saved    the content of a checkpoint to go on with
    path     its
    raises   CheckpointError where one differs
    """
    found = {name: None if part is None else part.fingerprint() for name, part in parts.items()}
    for name, part in parts.items():
        if saved is not None and saved.get(name) != found[name]:
            place = part.root if part else "nothing"
            raise CheckpointError(f"{path} was trained on other data than {place} now holds")
    return found


def data_of(data: CfgNode, fingerprint: str | None) -> dict:
    """What results.json says of the data that a network was trained on.

    data          the DATA section of the training's configuration
    fingerprint   None where nobody knows it
    """
    split = {"split": data.SPLIT} if has_splits(data.NAME) else {}  # no other data set reads it
    return {"name": data.NAME, **split, "fingerprint": fingerprint}


def open_tested(cfg: CfgNode, checkpoint: dict) -> Benchmark:
    """The data set that a configuration names, for the network of a checkpoint.

    A folder of one's own has no published name: by that of the training's it must hold the very same images, and one
    whose split is drawn may have trained on those who are the test's here.

    checkpoint   what results.json says of it
    raises       DataError, CheckpointError
    """
    benchmark, trained = open_data(cfg.DATA), checkpoint.get("trained_on", {})
    if not is_own(cfg.DATA.NAME) or trained.get("fingerprint") in (None, benchmark.fingerprint()):
        return benchmark
    if trained["name"] == cfg.DATA.NAME:
        raise CheckpointError(
            f"{checkpoint['path']} was trained on other images, or otherwise listed ones, than {benchmark.root} now "
            f"has as {cfg.DATA.NAME}: to test on another folder, give it a name, such as DATA.NAME folder-new"
        )
    if is_own(trained["name"]) and hasattr(benchmark, "split"):
        raise CheckpointError(
            f"the split of {benchmark.root} is drawn, and {checkpoint['path']} was trained on another folder, which "
            "may show those who are drawn for the test: list who is for the test, or set DATA.FOLDER.TEST_SHARE to 1 "
            "where nobody was trained on"
        )
    return benchmark


def data_options(data: CfgNode) -> list[str]:
    """KEY, VALUE, ... that name the data set of a DATA section."""
    keys = ["NAME", "ROOT", "SPLIT"]
    words = [word for key in keys for word in (f"DATA.{key}", str(data[key]))]
    own = [word for key, value in data.FOLDER.items() for word in (f"DATA.FOLDER.{key}", str(value))]
    return words + (own if is_own(data.NAME) else [])


def load_authors(path: Path, cfg: CfgNode, trained: CfgNode | None = None) -> tuple[Network, dict]:
    """The network of a checkpoint in the authors' format, which brings its number of classes.

    trained   the configuration of its training, where that is another: without the command line's options
    """
    theirs = read_checkpoint(path)
    classifier = weights.named_tensors(theirs).get("classifier.weight")
    if classifier is None or classifier.ndim != 2:
        raise CheckpointError(
            f"{path} is no checkpoint of the authors' but {weights.described(theirs)}: it has no classifier.weight"
        )
    model = build_network(cfg, classes=len(classifier), pretrained=False)
    try:
        model.load_state_dict(from_authors(theirs, model))
    except AuthorsCheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    data = data_of((trained or cfg).DATA, fingerprint=None)
    return model, {"path": str(path), "sha256": sha256(path), "format": "authors", "trained_on": data}


def check_same_run(saved: dict, cfg: CfgNode, path: Path) -> None:
    """A resumed run must have the options it began with, but for those that change no result.

    saved    the checkpoint at `path`
    raises   CheckpointError
    """
    free = (
        "DEVICE", "OUTPUT", "DATA.ROOT", "DATA.WORKERS", "DATA.CACHE", "MODEL.RECOMPUTE", "SOLVER.LOG_PERIOD",
        "SOLVER.EPOCHS", "TEST.", "EMBEDDING.", *([] if has_splits(cfg.DATA.NAME) else ["DATA.SPLIT"]),
    )
    changed = [d for d in differences(from_dump(saved["config"]), cfg) if not d.startswith(free)]
    changed += terms_of_before(saved["config"], cfg.MODEL.NAME)
    if changed:
        raise CheckpointError(
            f"{path} was trained with other options (there, here): {'; '.join(changed)}. "
            "Resume with the same ones, or choose another OUTPUT"
        )


def terms_of_before(config: str, method: str) -> list[str]:
    """What the total of before those by method added to a method's loss, in words; today's has no such terms."""
    loss = yaml.safe_load(config).get("LOSS", {})
    triplet, schedule = loss.get("TRIPLET", "batch_hard"), loss.get("DCL_WEIGHTS", [])
    found = [f"LOSS.TRIPLET: {triplet!r}"] * (triplet != "batch_hard" and not is_read("LOSS.TRIPLET", method))
    in_force = any(weight for _, weight in schedule) and "MPANET" not in loss
    return found + [f"LOSS.DCL_WEIGHTS: {schedule}"] * (in_force and not is_read("LOSS.DCL_WEIGHTS", method))
