import json
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import time
from pathlib import Path

import locks
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from processes import context
from programs import run
from torch.utils.data import DataLoader
from trees import regdb_tree, sysu_tree

from configs.load import ConfigError
from data import cache as module
from data.cache import StaleCache, build_cache, cache_folder, open_cache, prepared
from data.dataset import TrainBatches, open_benchmark
from data.pixels import open_image
from data.records import DataError
from data.sampler import WithReplacement
from data.transforms import Pipeline
from scripts import prepare as prepare_script
from utils.lock import only_one

SIZE = (24, 12)
RECIPE = Pipeline(["jitter", "pad", "grey", "crop", "flip", "normalise", {"erase": {"area": [0.02, 0.4]}}])


@pytest.fixture
def benchmark(tmp_path):
    return open_benchmark("synthetic", sysu_tree(tmp_path / "data", images=2))  # 4 identities x 6 cameras x 2


@pytest.fixture
def base(tmp_path):
    return tmp_path / "cache"


def prepare(base, benchmark, workers=1, size=SIZE, resize="lanczos"):
    said = []
    return prepared(base, benchmark, *size, workers, said.append, alone=waiting, resize=resize), said


def waiting(folder):
    return only_one(folder, "cache", wait=True)


def reopen(base, benchmark, size=SIZE):
    return open_cache(cache_folder(base, benchmark, *SIZE, "lanczos"), benchmark.train, benchmark.root, *size)


def batches_of(benchmark, cache=None):
    sampler = WithReplacement(benchmark.train, 3, 2, seed=0)
    return TrainBatches(benchmark.train, sampler, 0, *SIZE, visible=[RECIPE], infrared=[RECIPE], cache=cache)


def equal(a, b) -> bool:
    """Whether two batches are the same, bit for bit."""
    return all(
        torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels)
        for x, y in zip(a.streams, b.streams, strict=True)
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_the_same_with_and_without_a_cache(benchmark, base):
    cache, _ = prepare(base, benchmark)
    positions = [(epoch, step) for epoch in range(2) for step in range(3)]
    for workers in (0, 2):
        with_cache = DataLoader(batches_of(benchmark, cache), batch_size=None, sampler=positions, num_workers=workers)
        without = DataLoader(batches_of(benchmark), batch_size=None, sampler=positions)
        for ours, theirs in zip(with_cache, without, strict=True):
            assert equal(ours, theirs)


def test_with_a_cache_no_image_is_read(benchmark, base):
    cache, _ = prepare(base, benchmark)
    expected = batches_of(benchmark)[1, 2]
    shutil.rmtree(benchmark.root)
    assert equal(batches_of(benchmark, cache)[1, 2], expected)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_cache_holds_every_image_as_opened_from_its_file(benchmark, base, workers):
    cache, said = prepare(base, benchmark, workers)
    assert len(cache) == len(benchmark.train) == 48 > module.AT_ONCE["chunk"]  # so two processes have something to do
    assert len(said) == 1 and "there is no cache in" in said[0]
    for record in benchmark.train:
        assert (cache.read(record.path) == open_image(record.path, *SIZE)).all()
    assert sorted(path.name for path in cache.folder.iterdir()) == ["images.bin", "manifest.json"]
    assert cache.problems() == []


def test_a_valid_cache_is_not_built_again(benchmark, base, monkeypatch):
    first, _ = prepare(base, benchmark)
    monkeypatch.setattr(module, "build_cache", None)
    second, said = prepare(base, benchmark)
    assert said == [] and (second.read(benchmark.train[5].path) == first.read(benchmark.train[5].path)).all()


def damage(path, offset, byte=b"\x7f"):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(byte)


def edit_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replace_image(folder, benchmark):
    Image.new("RGB", (6, 12), "red").save(benchmark.train[3].path)


def touch_image(folder, benchmark):
    os.utime(benchmark.train[3].path, (1, 1))


STALE = {
    "cut off": (lambda f, b: os.truncate(f / "images.bin", 1000), "images.bin has 1000 bytes, not 41472"),
    "no images": (lambda f, b: (f / "images.bin").unlink(), "images.bin has None bytes"),
    "no manifest": (lambda f, b: (f / "manifest.json").unlink(), "there is no cache in"),
    "half a manifest": (lambda f, b: os.truncate(f / "manifest.json", 500), "manifest.json is no whole manifest"),
    "no object": (lambda f, b: (f / "manifest.json").write_text("[]"), "manifest.json is no whole manifest"),
    "one wrong sum": (lambda f, b: edit_manifest(f, lambda m: m["images"][0].__setitem__(3, 7)), "no whole manifest"),
    "image replaced": (replace_image, "0002.jpg has changed since"),
    "image touched": (touch_image, "0002.jpg has changed since"),
    "image added": (lambda f, b: b.train.append(b.test[0]), r"another list of images \(1 are new, 0 are gone\)"),
    "image removed": (lambda f, b: b.train.pop(), r"another list of images \(0 are new, 1 are gone\)"),
    "order changed": (lambda f, b: b.train.reverse(), r"another list of images \(0 are new, 0 are gone\)"),
}


@pytest.mark.parametrize("name", STALE)
def test_a_stale_or_broken_cache_is_noticed_and_made_anew(benchmark, base, name):
    cache, _ = prepare(base, benchmark)
    change, message = STALE[name]
    change(cache.folder, benchmark)
    with pytest.raises(StaleCache, match=message):
        reopen(base, benchmark)
    cache, said = prepare(base, benchmark)
    assert len(said) == 1 and said[0].endswith(": building it") and cache.problems() == []
    assert len(cache) == len(benchmark.train)


def test_another_size_or_another_pillow_is_another_cache(benchmark, base, monkeypatch):
    prepare(base, benchmark)
    with pytest.raises(StaleCache, match="was made with height 24, not 32"):
        reopen(base, benchmark, (32, 12))
    other, _ = prepare(base, benchmark, size=(32, 16))
    assert other.read(benchmark.train[0].path).shape == (32, 16, 3)
    assert len(reopen(base, benchmark)) == 48  # the first one is still there
    with pytest.raises(DataError, match="holds images of another size than 24x12"):
        batches_of(benchmark, other)
    monkeypatch.setattr(module.PIL, "__version__", "1.0")  # which may resize otherwise
    with pytest.raises(StaleCache, match="was made with Pillow .*, not 1.0"):
        reopen(base, benchmark)


def test_each_split_of_regdb_has_its_own_folder(tmp_path, benchmark):
    regdb = open_benchmark("regdb", regdb_tree(tmp_path / "regdb", split=3), split=3)
    assert cache_folder("c", regdb, 384, 144, "lanczos") == Path("c/regdb-384x144-split3")
    assert cache_folder("c", benchmark, 384, 192, "lanczos") == Path("c/synthetic-384x192")


def test_each_resize_has_its_own_folder_and_is_refused_for_another(tmp_path, benchmark, base):
    regdb = open_benchmark("regdb", regdb_tree(tmp_path / "regdb", split=3), split=3)
    assert cache_folder("c", regdb, 384, 144, "bilinear") == Path("c/regdb-384x144-bilinear-split3")
    (bilinear, _), (lanczos, _) = (prepare(base, benchmark, resize=resize) for resize in ("bilinear", "lanczos"))
    assert bilinear.folder.name == "synthetic-24x12-bilinear" and lanczos.folder.name == "synthetic-24x12"
    path = benchmark.train[0].path
    assert (bilinear.read(path) == open_image(path, *SIZE, "bilinear")).all()
    assert (bilinear.read(path) != lanczos.read(path)).any() and bilinear.problems() == lanczos.problems() == []
    with pytest.raises(StaleCache, match="was made with resize bilinear, not lanczos"):
        open_cache(bilinear.folder, benchmark.train, benchmark.root, *SIZE)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupted_image_stops_the_training_with_its_name(benchmark, base, workers):
    cache, _ = prepare(base, benchmark)
    pixels = (cache.folder / "images.bin").read_bytes()
    for row in range(len(cache)):  # a bit of every image
        damage(cache.folder / "images.bin", row * 24 * 12 * 3 + 17, bytes([pixels[row * 24 * 12 * 3 + 17] ^ 1]))
    cache = reopen(base, benchmark)  # only reading can notice
    loader = iter(DataLoader(batches_of(benchmark, cache), batch_size=None, sampler=[(0, 0)], num_workers=workers))
    with pytest.raises(DataError, match="synthetic-24x12 is damaged: .*jpg has another checksum.*Remove that folder"):
        next(loader)
    if workers:
        loader._shutdown_workers()
    assert len(cache.problems()) == 48


def test_truncation_after_opening_is_an_error_and_no_crash(benchmark, base):
    cache, _ = prepare(base, benchmark)
    os.truncate(cache.folder / "images.bin", 10)
    with pytest.raises(DataError, match="images.bin cannot be read .*; remove that folder, and it is made anew"):
        cache.read(benchmark.train[0].path)


def test_verification_finds_an_image_that_kept_its_size_and_time(benchmark, base):
    cache, _ = prepare(base, benchmark)
    path = benchmark.train[7].path
    state = os.stat(path)
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    with open(path, "r+b") as file:
        file.truncate(state.st_size)  # zeros after the end, or an end that is cut: another image in either case
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    cache = reopen(base, benchmark)
    try:
        problems = cache.problems()
    except DataError as error:
        problems = [str(error)]
    assert len(problems) == 1 and path in problems[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_image_is_named_and_leaves_no_cache(benchmark, base, workers, monkeypatch):
    forking = context()  # which starts processes sooner than an interpreter that imports everything
    monkeypatch.setattr(multiprocessing, "get_context", lambda _method: forking)
    Path(benchmark.train[40].path).write_text("broken")
    with pytest.raises(DataError, match="cam.*jpg is broken or no image"):
        prepare(base, benchmark, workers)
    assert not cache_folder(base, benchmark, *SIZE, "lanczos").exists()


def test_a_full_disk_is_a_clear_error_and_the_older_cache_stays(benchmark, base, monkeypatch):
    cache, _ = prepare(base, benchmark)
    before = {path.name: path.read_bytes() for path in cache.folder.iterdir()}
    arguments = (cache.folder, benchmark.train, benchmark.root, *SIZE)

    usage = shutil.disk_usage(base)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(DataError, match="needs 0.0 GB, and its disk has 0.0 GB left; make room"):
            build_cache(*arguments)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_image", full_disk)
        with pytest.raises(DataError, match=r"the cache .* cannot be written \(No space left .*\): 0.0 GB are needed"):
            build_cache(*arguments)
    assert {path.name: path.read_bytes() for path in cache.folder.iterdir()} == before
    assert len(reopen(base, benchmark)) == 48


def full_disk(*_):
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize("step", ["flush_to_disk", "digest"])
def test_a_build_that_fails_near_its_end_keeps_the_older_cache(benchmark, base, monkeypatch, step):
    cache, _ = prepare(base, benchmark)
    monkeypatch.setattr(module, step, full_disk)
    with pytest.raises(DataError, match="No space left"):
        build_cache(cache.folder, benchmark.train, benchmark.root, *SIZE)
    monkeypatch.undo()
    assert reopen(base, benchmark).problems() == []


@pytest.mark.parametrize("renames", [0, 1])
def test_a_build_killed_while_it_renames_leaves_what_is_whole_or_nothing(benchmark, base, monkeypatch, renames):
    cache, _ = prepare(base, benchmark)
    replace_image(None, benchmark)
    done = []

    def replace(source, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(shutil.move(source, target))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        build_cache(cache.folder, benchmark.train, benchmark.root, *SIZE)
    monkeypatch.undo()
    with pytest.raises(StaleCache, match="there is no cache"):
        reopen(base, benchmark)
    assert prepare(base, benchmark)[0].problems() == []


def test_a_file_where_the_folder_should_be_is_a_clear_error(benchmark, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="no cache can be built in .*choose another DATA.CACHE"):
        prepare(tmp_path / "file", benchmark)


def build_in_a_process(base, root, results):
    benchmark = open_benchmark("synthetic", root)
    cache, said = prepare(base, benchmark)
    results.put((said, cache.problems()))


def test_processes_that_build_at_once_end_with_one_good_cache(benchmark, base):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=build_in_a_process, args=(base, benchmark.root, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60)[1] for _ in processes] == [[]] * 4
    for process in processes:
        process.join()


def test_a_copy_for_another_process_carries_no_image(benchmark, base):
    cache, _ = prepare(base, benchmark)
    path = benchmark.train[0].path
    image = cache.read(path)
    copied = pickle.dumps(cache)
    assert len(copied) < 48 * 24 * 12 * 3 / 4
    assert (pickle.loads(copied).read(path) == image).all()
    assert not image.flags.owndata and not image.flags.writeable
    with pytest.raises(DataError, match="elsewhere.jpg is not in the cache"):
        cache.read("/elsewhere.jpg")


def run_prepare(*arguments):
    return run("scripts/prepare.py", "--config", "configs/quickstart_cmfn.yaml", *arguments, check=False)


def test_the_script_builds_verifies_and_says_what_is_next(benchmark, base):
    overrides = ("DATA.ROOT", str(benchmark.root), "DATA.CACHE", str(base))
    first = run_prepare("--verify", "--workers", "1", *overrides)
    assert first.returncode == 0, first.stderr
    assert "there is no cache in" in first.stdout and "48 images, 0.00 GB" in first.stdout
    assert "every image is that of its file" in first.stdout
    assert f"next: python train.py --config configs/quickstart_cmfn.yaml DATA.ROOT {benchmark.root}" in first.stdout
    damage(base / "synthetic-64x32" / "images.bin", 5)
    second = run_prepare("--verify", "--workers", "1", *overrides)
    assert second.returncode == 1 and "building" not in second.stdout
    assert second.stderr.splitlines()[-1].startswith("error: 1 image is not as it should be; the first: the cache")


def test_the_script_wants_a_folder(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--config", str(ROOT / "configs" / "quickstart_cmfn.yaml")])
    with pytest.raises(ConfigError, match="DATA.CACHE names no folder"):
        prepare_script.main()


def build_slowly(base, root):
    def slow(*arguments):
        time.sleep(0.05)
        return open_image(*arguments)

    module.open_image = slow
    prepare(base, open_benchmark("synthetic", root))


def test_a_killed_build_does_not_look_whole(benchmark, base):
    """Killed between its first image and its last."""
    process = context().Process(target=build_slowly, args=(base, benchmark.root))
    process.start()
    unfinished, end = base / "synthetic-24x12" / "images.bin.unfinished", time.monotonic() + 60
    while not (unfinished.exists() and unfinished.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and unfinished.exists()
    with pytest.raises(StaleCache, match="there is no cache"):
        reopen(base, benchmark)
    cache, _ = prepare(base, benchmark)
    assert cache.problems() == [] and not unfinished.exists()


def test_the_script_does_not_build_where_another_process_does(benchmark, base):
    other, said = locks.start(cache_folder(base, benchmark, 32, 16, "lanczos"), "cache")
    done = run("scripts/prepare.py", "--config", "configs/quickstart_cmfn.yaml", "DATA.ROOT", benchmark.root,
               "DATA.CACHE", base, "DATA.HEIGHT", 32, "DATA.WIDTH", 16, check=False)
    other.communicate()
    assert said == "taken" and done.returncode == 1
    assert f"error: process {other.pid} on" in done.stderr and str(base) in done.stderr
