"""What each room refuses, in its own words; refusals that need more than a few lines stand with what they are of."""

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from trees import llcm_tree, sysu_tree, text

from common.checksum import read_sealed_json
from common.options import Section, options_of
from common.weights import WeightsFileError, dtype, read_weights_file, save_sealed
from configs.load import ConfigError, from_dump
from data import files as data_files
from data.llcm import LLCM
from data.pixels import in_8_bits
from data.records import DataError, LayoutError, PartAbsent
from data.synthetic import write_synthetic
from data.sysu import SYSU
from models.authors_checkpoint import AuthorsCheckpointError, authors_name, from_authors
from models.parts.backbone import Backbone, PretrainedError, pretrained_weights
from utils import lock, output
from utils.evaluation import evaluator
from utils.reporting import report, sheets
from utils.retrieval import compress, index, nearest
from utils.training import loaders
from utils.training.checkpoint import (
    CheckpointError,
    load_weights,
    read_checkpoint,
    read_own_checkpoint,
    save_checkpoint,
)
from utils.training.distributed import TORCHRUN, Ranks, RanksError

# configs


def test_configs():
    with pytest.raises(ConfigError, match="the checkpoint's configuration is damaged: it is no text"):
        from_dump(None)
    with pytest.raises(TypeError, match=r"A.B is 3; declare it by option\(default, explanation, ...\)"):
        options_of(Section(A=Section(B=3)))


# data


def lines(path, content):
    text(path, content)
    return path


DATA = {
    "a root's bytes": (
        lambda p: data_files.absolute(os.fsdecode(b"/caf\xe9")), DataError,
        r"DATA.ROOT is '/caf\\udce9', which is not UTF-8: rename that folder",
    ),
    "no folder": (
        lambda p: data_files.require_folder(p / "gone", "cam1", "Ask its owners."), LayoutError,
        r"there is no folder .*gone, where cam1 should be\. Ask its owners\. Then set DATA.ROOT",
    ),
    "a file for a folder": (
        lambda p: data_files.names_in(lines(p / "exp", "")), DataError,
        "exp should be a readable folder, but: Not a directory",
    ),
    "a folder for an image": (
        lambda p: (p / "1.jpg").mkdir() or data_files.list_images(p), DataError,
        "1.jpg should be an image, and is a folder or a broken link",
    ),
    "a file for a camera": (
        lambda p: lines(p / "cam1", "") and data_files.numbered(p, "cam"), DataError,
        "cam1 should be a readable folder of images, and is a file or a broken link",
    ),
    "a list alone": (
        lambda p: data_files.read_indices(p, lines(p / "list", "a/1.jpg 0\na/2.jpg 1")), PartAbsent,
        "none of the images that .*list list is there",
    ),
    "no test images of LLCM": (
        lambda p: lines(p / "idx/test_id.txt", "7") and LLCM(p), LayoutError,
        "has no folder of test images: neither test_vis nor test_nir",
    ),
    "empty folders of LLCM": (
        lambda p: [lines(p / "idx/test_id.txt", "7"), *((p / f"test_{m}").mkdir() for m in ("vis", "nir")), LLCM(p)],
        LayoutError, "none of the identities in .*test_id.txt has an image in .*/test_",
    ),
    "a person of LLCM": (
        lambda p: lines(llcm_tree(p, images=1) / "idx" / "test_id.txt", "7,9") and LLCM(p), DataError,
        r"test_id.txt lists identity 9, which has no image in test_\*",
    ),
    "nobody of SYSU-MM01": (
        lambda p: [lines(p / f"exp/{part}_id.txt", str(len(part))) for part in ("train", "val", "test")] and SYSU(p),
        LayoutError, "none of the identities in .*train_id.txt has an image in .*/cam",
    ),
    "no query": (
        lambda p: SYSU(sysu_tree(p, images=1, cameras=(2, 3))).protocol("sysu/all/single-shot/random"), DataError,
        "trial 0 of sysu/all/single-shot/random has no valid query: .*; is the copy complete",
    ),
    "grey values": (
        lambda p: in_8_bits(np.array([[0, np.inf]])), ValueError, "some of its grey values are not finite",
    ),
    "the size of the embedded data set": (
        lambda p: write_synthetic(p / "new", height=8), DataError,
        "the embedded data set's height is 8; choose 32 to 1024",
    ),
    "a link for the embedded data set": (
        lambda p: (p / "link").symlink_to("gone") or write_synthetic(p / "link"), DataError,
        "link is a link or a mounted disk, which cannot be replaced: name a new folder",
    ),
    "another embedded data set": (
        lambda p: lines(p / "synthetic.json", "{}") and write_synthetic(p), DataError,
        "holds another embedded data set .*seed: None there, 0 asked for.*: choose another folder, or remove it",
    ),
}


@pytest.mark.filterwarnings("ignore:the galleries of")
@pytest.mark.parametrize("what", DATA)
def test_data(what, tmp_path):
    provoke, error, message = DATA[what]
    with pytest.raises(error, match=message):
        provoke(tmp_path)


# files


def written(path, change):
    with open(path, "w+b") as file:
        save_sealed({"a": torch.zeros(9)}, file)
    path.write_bytes(change(path.read_bytes()))
    return path


def test_files(tmp_path):
    (tmp_path / "sealed.json").write_text('{"a": 1, "crc32": 0}')
    with pytest.raises(ValueError, match="its checksum differs"):
        read_sealed_json(tmp_path / "sealed.json")
    with pytest.raises(WeightsFileError, match="is a folder, not a file"):
        read_weights_file(tmp_path)
    with pytest.raises(WeightsFileError, match=r"cannot be read \(File name too long\)"):
        read_weights_file(tmp_path / ("a" * 999))
    path = tmp_path / "a.pth"
    with pytest.raises(WeightsFileError, match="a.pth is .*: the end of the zip archive is missing. Copy it again"):
        read_weights_file(written(path, lambda content: content[:-9]))
    with pytest.raises(WeightsFileError, match="a.pth is damaged: its checksum differs from that of what was written"):
        read_weights_file(written(path, lambda content: content.replace(b"archive", b"arkhive", 1)))
    with pytest.raises(ValueError, match="arrays of O8 are not read"):
        dtype("O8").array(b"")


# models


def test_models(tmp_path):
    with pytest.raises(ValueError, match="MODEL.BACKBONE is 'vgg'; known are resnet18, "):
        Backbone("vgg")
    with pytest.raises(ValueError, match="MODEL.STAGES is 2; the network has 4 stages, or 3 for RegDB"):
        Backbone("resnet18", stages=2)
    with pytest.raises(PretrainedError, match="MODEL.PRETRAINED cannot be read: .* is a folder, not a file"):
        pretrained_weights("resnet18", str(tmp_path))
    network = SimpleNamespace(authors_names=(), state_dict=dict, authors_unused=list)
    with pytest.raises(KeyError, match="x.y has no counterpart in the authors' network"):
        authors_name("x.y", network)
    message = (
        r"this is not the authors' checkpoint of the network that the configuration describes but a state dict of 1 "
        r"tensor \(a\):\n  unexpected: a"
    )
    with pytest.raises(AuthorsCheckpointError, match=message):
        from_authors({"a": torch.zeros(1)}, network)


# utils


def saved_list(path):
    torch.save([1], path)
    return path


def too_large_a_jpeg(path):
    sheets.save(Image.new("L", (70_000, 1)), path / "sheet.jpg")


def opened(folder):
    with index.open_index(folder, {"numbers": 1, "dtype": "float32"}):
        pass


UTILS = {
    "a checkpoint's folder": (
        lambda p: save_checkpoint(p / "gone" / "a.pth", {}), CheckpointError,
        "a.pth could not be written .*; there is no older one. Is the disk full",
    ),
    "a list": (lambda p: read_checkpoint(saved_list(p / "a.pth")), CheckpointError, "holds no checkpoint but a list"),
    "another program's checkpoint": (
        lambda p: torch.save({}, p / "a.pth") or read_own_checkpoint(p / "a.pth"), CheckpointError,
        r"was not written by this version of train.py \(format None, not 1\); it is a dict",
    ),
    "another network's weights": (
        lambda p: load_weights(nn.Linear(1, 1), {}, "a.pth"), CheckpointError,
        "a.pth does not fit the network that the configuration describes:\n  missing: weight",
    ),
    "damaged directions": (
        lambda p: compress.load_directions(lines(p / "pca.pth", "x"), {}), CheckpointError,
        "pca.pth is .*. Without pca.pth, the directions are learned again",
    ),
    "no image": (
        lambda p: evaluator.embed_images(None, [], [], "cpu"), evaluator.EvaluationError,
        "a process has no image to embed: start fewer processes than there are images",
    ),
    "an index that is a file": (
        lambda p: opened(lines(p / "index", "")), index.SearchIndexError,
        "the index .* cannot be used .*; choose another with --index",
    ),
    "a file that is no folder": (
        lambda p: output.require_folder(lines(p / "file", "") / "runs"), output.OutputError,
        "runs cannot be written .*file is no folder.; choose another folder",
    ),
    "a report's place": (
        lambda p: report.write(lines(p / "file", "") / "report.html", ""), report.ReportError,
        "report.html cannot be written .*; make it writable, or free its disk",
    ),
    "a large sheet": (
        too_large_a_jpeg, sheets.SheetError, "sheet.jpg cannot be written .*; choose another format, or fewer images",
    ),
}


@pytest.mark.parametrize("what", UTILS)
def test_utils(what, tmp_path):
    provoke, error, message = UTILS[what]
    with pytest.raises(error, match=message):
        provoke(tmp_path)


def test_a_row_of_an_index_with_a_wrong_bit_is_named(tmp_path):
    settings = {"numbers": 2, "dtype": "float32"}
    with index.open_index(tmp_path, settings) as written:
        written.append([("a.jpg", (1, 1)), ("b.jpg", (1, 1))], np.ones((2, 2)))
    rows = tmp_path / index.EMBEDDINGS
    rows.write_bytes(rows.read_bytes()[:-1] + b"\0")
    with index.open_index(tmp_path, settings) as damaged:
        message = "is damaged: the checksum of row 1 differs from that of what was written"
        with pytest.raises(index.SearchIndexError, match=message):
            damaged.matrix()[:]


@pytest.mark.parametrize("variable, value, message", [
    ("LOCAL_RANK", "first", "the environment has LOCAL_RANK='first', where torchrun sets a number; unset it"),
    ("RANK", "2", "the environment has RANK=2 with WORLD_SIZE=2: ranks count from 0; unset both"),
])
def test_an_environment_that_describes_no_process(monkeypatch, variable, value, message):
    for name in TORCHRUN:
        monkeypatch.setenv(name, "2" if name == "WORLD_SIZE" else "0")
    monkeypatch.setenv(variable, value)
    with pytest.raises(RanksError, match=message):
        Ranks.from_environment()


def test_a_lost_loader():
    perhaps = r"loading images failed \(DataLoader worker .*\): perhaps for"
    with pytest.raises(loaders.LoaderError, match=perhaps), loaders.loader_advice(workers=2):
        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")


def test_a_folder_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "taken", lambda path: None)
    message = r"another process is at work in .* \(train\); wait for it, stop it, or choose another folder"
    with pytest.raises(lock.LockedError, match=message), lock.only_one(tmp_path, "train"):
        pass


def test_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    message = "FAISS is not installed; install it with: pip install -r requirements-optional.txt"
    with pytest.raises(nearest.FaissMissing, match=message):
        nearest.import_faiss()


def test_a_broken_matplotlib(monkeypatch):
    import utils.reporting

    monkeypatch.delattr(utils.reporting, "plots", raising=False)
    monkeypatch.delitem(sys.modules, "utils.reporting.plots", raising=False)
    monkeypatch.setitem(sys.modules, "utils.reporting.drawing", SimpleNamespace())  # in the place of one that draws
    message = r"matplotlib cannot be used here \(cannot import name .*\); look for a damaged matplotlibrc file"
    with pytest.raises(report.ReportError, match=message):
        report.import_plots()
