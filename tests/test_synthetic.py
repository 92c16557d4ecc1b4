"""The embedded data set: SYSU-MM01's layout, the same bytes for the same seed, and nothing that gives people away."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import ROOT

from data.figure import BOTTOM, SKIN, TEXTURES, TOP, Person, two_levels
from data.records import DataError
from data.synthetic import INFRARED, MANIFEST, draw_jpeg, write_synthetic
from data.sysu import SYSU

SMALL = {"train_identities": 3, "test_identities": 2, "images_per_camera": 1, "height": 32, "width": 16}
LUMA = [0.299, 0.587, 0.114]
PEOPLE, DRAWS = 48, 20
CHANCE = 1 / PEOPLE  # every identity has as many gallery images


@pytest.fixture(scope="module")
def seen(tmp_path_factory, whole):
    """The test people of a data set as the quickstart's: images, identities, cameras, file sizes.

    Drawn with half of the images by a camera, if not whole: queries are fewer, and each gallery is as large.
    """
    root = tmp_path_factory.mktemp("seen") / "set"
    images = {} if whole else {"images_per_camera": 2}
    write_synthetic(root, seed=0, train_identities=2, test_identities=PEOPLE, workers=2, **images)
    records = SYSU(root, name="synthetic").test
    files = [Path(record.path).read_bytes() for record in records]
    images = np.stack([np.asarray(Image.open(io.BytesIO(file)), dtype=np.float32) for file in files])
    sizes = np.array([[len(file)] for file in files], dtype=np.float32)
    return images, np.array([r.identity for r in records]), np.array([r.camera for r in records]), sizes


def rank1(features, identities, cameras):
    """Infrared searches visible, one image of each person and camera, camera 3 ignoring camera 2; mean of draws."""
    query = np.flatnonzero(np.isin(cameras, INFRARED))
    gallery = np.flatnonzero(~np.isin(cameras, INFRARED))
    q, g = features[query], features[gallery]
    distance = (q**2).sum(1)[:, None] + (g**2).sum(1) - 2 * q @ g.T
    distance[(cameras[query] == 3)[:, None] & (cameras[gallery] == 2)] = np.inf
    rng, hits = np.random.default_rng(0), []
    for _ in range(DRAWS):
        order = rng.permutation(len(gallery))  # so that ties are broken by chance
        folders = np.stack([identities[gallery[order]], cameras[gallery[order]]])
        chosen = order[np.unique(folders, axis=1, return_index=True)[1]]
        chosen = rng.permutation(chosen)
        nearest = chosen[distance[:, chosen].argmin(axis=1)]
        hits.append(identities[gallery[nearest]] == identities[query])
    return np.mean(hits)


def centred(features):
    """Rows without their mean, of length 1: their distance is by correlation, blind to brightness and contrast."""
    features = features - features.mean(axis=1, keepdims=True)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def flat(images):
    return images.reshape(len(images), -1)


def color_histograms(images):
    count = partial(np.histogramdd, bins=(6, 6, 6), range=[(0, 256)] * 3)
    return np.sqrt([count(image.reshape(-1, 3))[0].ravel() for image in images])


def border(images):
    inner = np.zeros(images.shape[1:3], dtype=bool)
    inner[4:-4, 4:-4] = True
    return images[:, ~inner]


LEAKS = {
    "raw pixels": flat,
    "raw pixels, by correlation": lambda p: centred(flat(p)),
    "grey pixels": lambda p: flat(p.mean(axis=3)),
    "grey pixels, by correlation": lambda p: centred(flat(p.mean(axis=3))),
    "colour histograms": color_histograms,
    "grey histograms": lambda p: color_histograms(p.mean(axis=3, keepdims=True).repeat(3, axis=3)),
    "borders": lambda p: flat(border(p)),
    "borders, by correlation": lambda p: centred(flat(border(p))),
    "mean colour": lambda p: p.mean(axis=(1, 2)),
    "contrast": lambda p: p.std(axis=(1, 2)),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_what_needs_no_learning_stays_near_chance(seen, leak):
    images, identities, cameras, _ = seen
    assert rank1(LEAKS[leak](images), identities, cameras) <= 2 * CHANCE


def test_file_sizes_stay_near_chance(seen):
    _, identities, cameras, sizes = seen
    assert rank1(sizes, identities, cameras) <= 2 * CHANCE


def test_where_edges_are_is_seen_in_both_modalities(seen):
    """The search can find people, and the images show them: shape and pattern do what brightness cannot."""
    images, identities, cameras, _ = seen
    grey = images.mean(axis=3)
    edges = np.abs(np.diff(grey, axis=1))[:, :, :-1] + np.abs(np.diff(grey, axis=2))[:, :-1]
    assert rank1(centred(flat(edges)), identities, cameras) >= 2.5 * CHANCE


def test_infrared_images_have_one_channel_three_times_and_visible_ones_colour(seen):
    images, _, cameras, _ = seen
    infrared = np.isin(cameras, INFRARED)
    assert (images[infrared] == images[infrared][..., :1]).all()
    assert (np.ptp(images[~infrared], axis=3).max(axis=(1, 2)) > 20).all()


def test_a_materials_reflectance_knows_nothing_of_its_colour():
    people = [Person(np.random.default_rng((5, i))) for i in range(1000)]
    visible = np.array([p.colors @ LUMA for p in people])     # (people, regions, 2 materials)
    infrared = np.array([p.reflectances for p in people])
    for what in (lambda x: x[:, TOP, 0], lambda x: x[:, BOTTOM, 0], lambda x: np.diff(x[:, TOP])[:, 0],
                 lambda x: x.mean(axis=(1, 2)), lambda x: x[:, SKIN, 0]):
        assert abs(np.corrcoef(what(visible), what(infrared))[0, 1]) < 0.12  # chance gives 0.03 or so
    for channel in range(3):
        colors = np.array([p.colors[TOP, 0, channel] for p in people])
        assert abs(np.corrcoef(colors, infrared[:, TOP, 0])[0, 1]) < 0.12


def test_the_two_materials_of_a_texture_differ_in_both_modalities():
    levels = np.array([two_levels(np.random.default_rng(i)) for i in range(500)])
    assert (np.abs(np.diff(levels)) >= 0.5).all()
    assert 0.4 < (levels[:, 0] < levels[:, 1]).mean() < 0.6  # either may be the darker
    for i in range(200):
        person = Person(np.random.default_rng(i))
        assert (np.abs(np.diff(person.colors[[TOP, BOTTOM]] @ LUMA)) > 0.25).all()
        assert (np.abs(np.diff(person.reflectances[[TOP, BOTTOM]])) >= 0.5).all()


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_every_texture_shows_its_materials_on_half_of_the_cloth(name):
    """Else one that is mostly bright by day and by night would be found by its brightness."""
    u, v = np.meshgrid(np.linspace(0, 40, 1200), np.linspace(0, 40, 1200))
    assert TEXTURES[name](u, v).mean() == pytest.approx(0.5, abs=0.02)


def test_the_cameras_of_the_test_stand_elsewhere():
    trained, tested = (np.asarray(Image.open(io.BytesIO(draw_jpeg(0, 1, 1, 1, 96, 48, tested=tested)))).astype(int)
                       for tested in (False, True))
    corner = np.s_[:8, :8]
    assert np.abs(trained[corner].mean(axis=(0, 1)) - tested[corner].mean(axis=(0, 1))).max() > 8


def all_bytes(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_layout_is_that_of_sysu_and_identities_are_disjoint(tmp_path):
    assert write_synthetic(tmp_path / "set", **SMALL)
    files = set(all_bytes(tmp_path / "set"))
    images = {f"cam{camera}/{identity:04d}/0001.jpg" for camera in range(1, 7) for identity in range(1, 6)}
    shapes = {f"shapes/{image}" for image in images if image.split("/")[1] <= "0003"}
    assert files == images | shapes | {"exp/train_id.txt", "exp/val_id.txt", "exp/test_id.txt", MANIFEST}
    lists = [(tmp_path / "set" / "exp" / f"{part}_id.txt").read_text() for part in ("train", "val", "test")]
    assert lists == ["1,2\n", "3\n", "4,5\n"]
    benchmark = SYSU(tmp_path / "set", name="synthetic")
    assert {r.identity for r in benchmark.train} == {1, 2, 3} and {r.identity for r in benchmark.test} == {4, 5}
    with Image.open(tmp_path / "set" / "cam3" / "0001" / "0001.jpg") as image:
        assert image.size == (16, 32) and image.mode == "RGB" and not image.getexif()


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(tmp_path):
    write_synthetic(tmp_path / "a", seed=1, **SMALL)
    write_synthetic(tmp_path / "b", seed=1, workers=2, **SMALL)
    write_synthetic(tmp_path / "c", seed=2, **SMALL)
    a, b, c = (all_bytes(tmp_path / name) for name in "abc")
    assert a == b
    assert all(a[name] != c[name] for name in a if name.endswith(".jpg"))
    assert SYSU(tmp_path / "a").fingerprint() != SYSU(tmp_path / "c").fingerprint()


def test_no_two_images_are_alike_and_padding_hides_every_size():
    files = [draw_jpeg(0, 1, camera, number, 96, 48) for camera in range(1, 7) for number in (1, 2)]
    assert len(set(files)) == len(files)
    assert all(1024 + 2 * 96 * 48 <= len(file) <= 1024 + 2.5 * 96 * 48 and file.endswith(b"\0") for file in files)


def test_a_written_set_is_reused_and_another_one_refused(tmp_path):
    root = tmp_path / "set"
    assert write_synthetic(root, seed=0, **SMALL) is True
    before = root.stat().st_mtime_ns
    assert write_synthetic(root, seed=0, **SMALL) is False
    assert root.stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"seed: 0 there, 1 asked for.*another folder, or remove it"):
        write_synthetic(root, seed=1, **SMALL)
    (root / MANIFEST).write_text(json.dumps([1]))
    with pytest.raises(DataError, match="no embedded data set"):
        write_synthetic(root, seed=0, **SMALL)


def test_a_foreign_folder_is_refused_and_an_empty_one_filled(tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match="holiday exists, and is no embedded data set: choose another folder"):
        write_synthetic(tmp_path / "holiday", **SMALL)
    assert (tmp_path / "holiday" / "beach.jpg").read_bytes() == b"mine"
    (tmp_path / "empty").mkdir()
    assert write_synthetic(tmp_path / "empty", **SMALL)


def test_an_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("data.synthetic.draw_jpegs", stop)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_to_it_and_its_processes_is_one_line_and_leaves_nothing(tmp_path, number):
    """As Ctrl-C reaches them: each on its own, too."""
    process = subprocess.Popen(
        [sys.executable, "-m", "data.synthetic", "--root", tmp_path / "set", "--workers", "2"], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )
    deadline = time.time() + 60
    while not [*tmp_path.glob("set.unfinished-*/cam*/*")] and time.time() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    printed, _ = process.communicate(timeout=60)
    assert printed.splitlines()[-1] == f"stopped by {signal.Signals(number).name}" and "Traceback" not in printed
    assert process.returncode == 128 + number and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option, value", [("train_identities", 1), ("test_identities", 0), ("images_per_camera", 0),
                                           ("height", 8), ("test_identities", 1000), ("seed", -1)])
def test_an_impossible_size_is_named(tmp_path, option, value):
    with pytest.raises(DataError, match=option):
        write_synthetic(tmp_path / "set", **(SMALL | {option: value}))
    assert list(tmp_path.iterdir()) == []
