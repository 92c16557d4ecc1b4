"""Files with a wrong bit, cut off, or of another kind: refused by name, or proven to hold what was written."""

import gzip
import json
import os
import pickle
import tarfile
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from trees import sysu_tree

from common.weights import named_tensors, read_weights_file
from data.cache import build_cache, open_cache
from data.dataset import open_benchmark
from data.records import DataError
from models.parts.backbone import PretrainedError, pretrained_weights
from scripts.reproduce_table import ResultsError, read_results
from utils.retrieval import nearest
from utils.retrieval.compress import load_directions, save_directions
from utils.retrieval.index import SearchIndexError, open_index
from utils.training.checkpoint import CheckpointError, read_checkpoint, read_own_checkpoint, save_checkpoint
from utils.training.run import Metrics

REFUSALS = (CheckpointError, DataError, SearchIndexError)
SETTINGS = {"checkpoint": "0" * 64, "numbers": 6, "dtype": "float16"}


def same(a, b) -> bool:
    """Of dicts, tensors and plain values, whether all is equal, in kind too."""
    if isinstance(a, dict):
        return isinstance(b, dict) and [*a] == [*b] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# What is written for ourselves: (files, a function that reads all of it anew)


def state() -> dict:
    weights = {f"layer{i}.weight": torch.randn(40, 7) for i in range(4)}
    return {"model": weights, "config": "SEED: 0\n", "epoch": 3, "identities": [1, 2], "step": 0}


def own_checkpoint(folder: Path):
    save_checkpoint(folder / "last.pth", state())
    return [folder / "last.pth"], lambda: dict(read_own_checkpoint(folder / "last.pth"))


def torchs_own(folder: Path):
    """Of other authors, or of ours before there was a checksum of the whole file."""
    torch.save({"net": state()["model"], "epoch": 3}, folder / "theirs.t")
    return [folder / "theirs.t"], lambda: read_checkpoint(folder / "theirs.t")


def directions(folder: Path):
    file, learned_from = folder / "pca-2-equal.pth", {"sha256": "0" * 64, "flip": True}
    save_directions(file, learned_from, torch.randn(50, 2))
    return [file], lambda: load_directions(file, learned_from)


def search_index(folder: Path):
    with open_index(folder, SETTINGS) as index:
        for batch in range(3):
            names = [(f"{batch}/é{i}.jpg", (1000 + i, 10**18 + i)) for i in range(8)]
            index.append(names, np.random.RandomState(batch).standard_normal((8, 6)))

    def read():
        with open_index(folder, SETTINGS) as index:
            rows = torch.from_numpy(index.matrix()[:])
            return {"entries": index.entries, "rows": rows}

    return [folder / name for name in ("index.json", "entries.jsonl", "embeddings.bin")], read


def image_cache(folder: Path):
    benchmark = open_benchmark("synthetic", sysu_tree(folder / "data", images=1))
    arguments = (folder / "cache", benchmark.train, benchmark.root, 6, 3)
    build_cache(*arguments)

    def read():
        cache = open_cache(*arguments)
        return {path: torch.from_numpy(cache.read(path).copy()) for path in cache.rows}

    return [folder / "cache" / name for name in ("images.bin", "manifest.json")], read


WRITTEN = {
    "a checkpoint": own_checkpoint, "a checkpoint of torch's": torchs_own, "PCA": directions, "an index": search_index,
    "a cache": image_cache,
}


def outcome(read, original, file: Path) -> str:
    try:
        found = read()
    except REFUSALS as error:
        assert str(file) in str(error) or str(file.parent) in str(error), error
        return "refused"
    if file.name == "entries.jsonl":  # as after a killed append: its end is missing, and made again
        number = len(found["entries"])
        assert found["entries"] == original["entries"][:number] and number < len(original["entries"])
        assert torch.equal(found["rows"], original["rows"][:number])
    elif file.name == "embeddings.bin":
        assert found["entries"] == original["entries"][:len(found["entries"])]
        assert torch.equal(found["rows"], original["rows"][:len(found["rows"])])
    else:
        assert same(found, original)
    return "harmless"


def broken(files: list[Path], read, number: int) -> dict[tuple[str, str], dict[str, int]]:
    """By file and kind of damage, how many were refused and how many harmless; each is repaired afterwards."""
    original, counts = read(), {}
    contents = {file: file.read_bytes() for file in files}
    random = np.random.RandomState(0)

    def attempt(file: Path, damage: str, content: bytes) -> None:
        for other, whole in contents.items():
            other.write_bytes(content if other == file else whole)
        found = counts.setdefault((file.name, damage), {"refused": 0, "harmless": 0})
        found[outcome(read, original, file)] += 1

    for file, whole in contents.items():
        for bit in random.choice(8 * len(whole), number, replace=False):
            attempt(file, "flips", flipped(whole, bit))
        for length in np.unique(np.linspace(0, len(whole) - 1, number).astype(int)):
            attempt(file, "cuts", whole[:length])
        attempt(file, "cuts", whole[:-1])
    return counts


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_wrong_bit_or_a_missing_end_is_refused_or_harmless(kind, tmp_path, whole):
    number = 100 if whole else 20
    counts = broken(*WRITTEN[kind](tmp_path), number)
    for (file, damage), found in counts.items():
        print(f"{kind}, {file}: of {number} {damage}, {found['refused']} refused, {found['harmless']} harmless")
        if damage == "cuts":  # of index.json, the last line's end may be missing
            assert found["harmless"] <= 2 * (file == "index.json") or file in ("entries.jsonl", "embeddings.bin")
        elif file != "theirs.t":  # whose dates and padding nothing covers, and nobody reads
            assert found["harmless"] <= number // 10


def test_every_bit_of_the_last_line_of_an_index_counts(tmp_path, whole):
    files, read = search_index(tmp_path)
    original, contents = read(), [file.read_bytes() for file in files]
    lines = contents[1]
    for bit in range(8 * len(lines) - 1, 8 * lines[:-1].rindex(b"\n") + 7, -1 if whole else -11):
        for file, content in zip(files, contents):
            file.write_bytes(content)
        files[1].write_bytes(flipped(lines, bit))
        found = outcome(read, original, files[1])
        assert (found == "harmless") == (bit // 8 == len(lines) - 1)  # without its end, a line was cut off


def test_a_damaged_faiss_index_is_never_given_to_faiss_and_made_anew(tmp_path, monkeypatch, whole):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    matrix = np.random.RandomState(0).standard_normal((200, 8)).astype(np.float32)
    nearest.faiss_index(faiss, matrix, tmp_path, lambda _: None)
    file = tmp_path / "faiss.index"
    content, random = file.read_bytes(), np.random.RandomState(0)
    assert nearest.read_index(faiss, file, 200, 8).ntotal == 200
    monkeypatch.setattr(faiss, "read_index", lambda _: pytest.fail("FAISS reads a damaged file"))
    for bit in random.choice(8 * len(content), 100 if whole else 20, replace=False):
        file.write_bytes(flipped(content, bit))
        assert nearest.read_index(faiss, file, 200, 8) is None
    for length in np.linspace(0, len(content) - 1, 20).astype(int):
        file.write_bytes(content[:length])
        assert nearest.read_index(faiss, file, 200, 8) is None


def test_a_damaged_check_of_faiss_does_not_count(tmp_path, whole):
    check = {"rows": 100, "queries": 32, "top": 10, "probes": 16, "recall": 0.97, "kind": "ir"}
    file = tmp_path / "faiss.json"
    file.write_text(nearest.sealed_json(check))
    content = file.read_bytes()
    assert nearest.kept_check(tmp_path, 100, 32, 10, "ir") == check
    for bit in range(0, 8 * len(content), 1 if whole else 11):
        file.write_bytes(flipped(content, bit))
        assert nearest.kept_check(tmp_path, 100, 32, 10, "ir") in (None, check)  # blanks may change


def test_other_programs_read_our_checkpoints(tmp_path):
    saved = state()
    save_checkpoint(tmp_path / "last.pth", saved)
    for mmap in (False, True):
        assert same(torch.load(tmp_path / "last.pth", weights_only=True, mmap=mmap), {"format": 1, **saved})
    with zipfile.ZipFile(tmp_path / "last.pth") as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"crc32:")


def test_torch_files_without_any_checksum_are_read(tmp_path):
    options = getattr(torch.serialization, "set_crc32_options", None)
    if options is None:
        pytest.skip("this torch always writes checksums")
    options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    finally:
        options(True)
    assert read_weights_file(tmp_path / "a.pth")["w"].tolist() == [1, 1, 1]


# Files of others


class Attack:
    def __reduce__(self):
        return os.system, ("touch ran",)


def by_numpy(path, save, **arrays):
    with path.open("wb") as file:  # of a name, NumPy changes the ending
        save(file, **arrays)


def zipped(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x" * 100)


def cut_legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(500)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-900])


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "a.py")


KINDS = {
    "nothing": (lambda p: None, "there is no checkpoint at"),
    "a folder": (lambda p: p.mkdir(), "is a folder"),
    "a pipe": (lambda p: os.mkfifo(p), "a device or pipe"),
    "empty": (lambda p: p.touch(), "an empty file"),
    "blanks": (lambda p: p.write_text("\n \n"), "a file of blanks"),
    "text": (lambda p: p.write_text("cat\ndog\nünd so weiter"), r"a text file \('cat'\)"),
    "a web page": (lambda p: p.write_text("\n<!DOCTYPE html>\n<html><title>404</title>"), "a web page"),
    "an error of a server": (lambda p: p.write_text('<?xml version="1.0"?><Error>'), "a web page"),
    "LFS": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"), "git lfs pull"),
    "noise": (lambda p: p.write_bytes(b"\xd7\x00\x81\xff" * 50), "no checkpoint at all"),
    "P": (lambda p: p.write_bytes(b"P"), "truncated, corrupt or no checkpoint at all"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"a")), "a gzip archive: unpack"),
    "tar": (tar, "a tar archive: unpack"),
    "zip": (lambda p: zipped(p, "model.pth"), r"zip archive that torch.save did not write.*model.pth"),
    "npz": (lambda p: by_numpy(p, np.savez, a=np.ones(2)), "an .npz file of NumPy"),
    "npy": (lambda p: by_numpy(p, np.save, arr=np.ones(2)), "an .npy file"),
    "mat": (lambda p: p.write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64"), "a .mat file of MATLAB"),
    "HDF5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n"), "an HDF5 file"),
    "JPEG": (lambda p: Image.new("RGB", (4, 4)).save(p, "JPEG"), "a JPEG image"),
    "safetensors": (lambda p: p.write_bytes((2).to_bytes(8, "little") + b"{}"), "a safetensors file"),
    "ONNX": (lambda p: p.write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x052.0.0"), "an ONNX model"),
    "TorchScript": (lambda p: torch.jit.save(torch.jit.script(nn.Identity()), p), "a TorchScript archive"),
    "a network": (lambda p: torch.save(nn.Linear(1, 1), p), r"a whole pickled network \(torch.nn.*Linear\)"),
    "an older network": (
        lambda p: torch.save(nn.Linear(1, 1), p, _use_new_zipfile_serialization=False), "a whole pickled network",
    ),
    "options": (lambda p: torch.save({"args": Namespace(lr=1)}, p), r"it holds code \(argparse.Namespace\)"),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps({"a": np.ones(3)})), "a Python pickle that torch.save did not"),
    "a cut older file": (cut_legacy, "truncated, corrupt or no checkpoint at all"),
    "an attack": (lambda p: torch.save({"a": Attack()}, p), r"it holds code \(posix.system\)"),
    **{
        f"an attack by protocol {protocol}": (
            lambda p, protocol=protocol: p.write_bytes(pickle.dumps({"net": {}, "a": Attack()}, protocol)),
            r"it holds code \(posix.system\)",
        ) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "another protocol": (lambda p: torch.save({}, p, pickle_protocol=4), "without pickle_protocol"),
    "a list": (lambda p: torch.save([1], p), "a list"),
    "an optimiser": (lambda p: torch.save({"state": {}, "param_groups": []}, p), "an optimiser's state"),
    "a state dict": (lambda p: torch.save(nn.Linear(1, 1).state_dict(), p), r"2 tensors \(weight, bias\)"),
    "figures": (lambda p: torch.save({"mAP": 0.5}, p), r"without a network's tensors \(it holds mAP\)"),
}


READ = ("a list", "an optimiser", "a state dict", "figures")  # and not what was wanted


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*torch.jit", "ignore:.*TorchScript", "ignore:.*protocol")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named_for_what_it_is(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, (write, message) = tmp_path / "file.pth", KINDS[kind]
    write(path)
    with pytest.raises(CheckpointError, match=rf"(?s)file\.pth.*{message}|{message}.*file\.pth") as error:
        read_own_checkpoint(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    if kind not in READ:
        with pytest.raises(PretrainedError, match="MODEL.PRETRAINED.*file.pth"):
            pretrained_weights("resnet18", str(path))
    assert not (tmp_path / "ran").exists()


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    torch.save({}, tmp_path / "file.pth")
    (tmp_path / "file.pth").chmod(0)
    if os.geteuid() == 0:  # whom no permission stops
        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CheckpointError, match=r"file.pth cannot be read \(Permission denied\)"):
        read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("zip_archive", [True, False])
@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_numbers_and_arrays_of_numpy_are_read_whatever_its_version(zip_archive, module, tmp_path):
    path, here = tmp_path / "theirs.t", type(np.float64(0)).__reduce__(np.float64(0))[0].__module__
    written = {
        "epoch": np.int64(7), "acc": np.float64(0.25), "half": np.float32(0.5), "best": np.bool_(True),
        "name": np.str_("cmfn"), "cmc": np.arange(6.0).reshape(2, 3).T, "big": np.array([1, 2], ">i4"),
        "all": [np.ones(2)], "net": {"w": torch.ones(2, dtype=torch.half)},
    }
    torch.save(written, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert here.encode() in content
    path.write_bytes(content.replace(here.encode(), f"{module}.multiarray".encode()))
    if zip_archive:
        torch.save(written, path)
    found = read_checkpoint(path)
    assert [found[key] for key in ("epoch", "acc", "half", "best", "name")] == [7, 0.25, 0.5, True, "cmfn"]
    assert type(found["epoch"]) is int and type(found["acc"]) is float
    assert found["cmc"].tolist() == [[0, 3], [1, 4], [2, 5]] and found["big"].tolist() == [1, 2]
    assert found["all"][0].tolist() == [1, 1] and found["net"]["w"].dtype == torch.half


@pytest.mark.parametrize("wrap", [
    lambda w: w, lambda w: {"net": w, "epoch": 3}, lambda w: {"state_dict": w}, lambda w: {"model": {"state_dict": w}},
    lambda w: {f"module.{k}": v for k, v in w.items()}, lambda w: {f"_orig_mod.module.{k}": v for k, v in w.items()},
    lambda w: {k.replace(".", "._orig_mod."): v for k, v in w.items()}, lambda w: {**w, "epoch": 3, "optimizer": {}},
])
def test_a_state_dict_is_found_bare_or_wrapped(wrap):
    weights = {"layer.weight": torch.ones(2), "layer.bias": torch.ones(1)}
    assert same(named_tensors(wrap(dict(weights))), weights)


def test_pretrained_weights_are_taken_out_of_a_whole_checkpoint(tmp_path):
    with torch.device("meta"):
        shapes = torchvision.models.resnet18().state_dict()
    weights = {key: torch.full(value.shape, 0.5, dtype=torch.half) for key, value in shapes.items()}
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "a.pth")
    found = pretrained_weights("resnet18", str(tmp_path / "a.pth"))
    assert torch.equal(found["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])


def test_a_damaged_download_in_torchs_cache_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").write_text("<html>")
    with pytest.raises(PretrainedError, match="resnet18-f37072fd.pth is no checkpoint but a web page.*Remove that"):
        pretrained_weights("resnet18", "imagenet")


def test_a_checkpoint_that_lacks_something_says_what(tmp_path):
    save_checkpoint(tmp_path / "last.pth", {"epoch": 1})
    with pytest.raises(CheckpointError, match="last.pth is no whole checkpoint of train.py: it lacks 'config'"):
        read_own_checkpoint(tmp_path / "last.pth")["config"]


# What programs read back: no checksum, but never a stack trace


def test_damaged_metrics_cost_their_line_alone(tmp_path, caplog, whole):
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"epoch": epoch, "total": 1.5, "lr": 0.1}).encode() + b"\n" for epoch in range(3)]
    for bit in range(0, 8 * len(lines[1]), 1 if whole else 5):
        file.write_bytes(lines[0] + flipped(lines[1], bit) + lines[2])
        found = Metrics.read(tmp_path)
        assert found[0]["epoch"] == 0 and all(isinstance(line["epoch"], int) for line in found)
        assert len(found) == 3 or "metrics.jsonl, line 2 is damaged" in caplog.text
    caplog.clear()
    file.write_bytes(b"".join(lines)[:-5])
    assert [line["epoch"] for line in Metrics.read(tmp_path)] == [0, 1] and not caplog.text


def test_a_damaged_results_file_is_refused_or_well_formed(tmp_path, whole):
    metrics = {name: 0.5 for name in ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")}
    result = {"protocol": "a", "flip": True, "weighting": "b", "rerank": False}
    result["trials"] = [{"valid_queries": 3, **metrics}]
    file, content = tmp_path / "results.json", {"data": {"name": "sysu", "fingerprint": "0"}, "results": [result]}
    content = json.dumps(content).encode()
    for bit in range(0, 8 * len(content), 1 if whole else 11):
        file.write_bytes(flipped(content, bit))
        try:
            read_results(file)
        except ResultsError as error:
            assert str(file) in str(error)
