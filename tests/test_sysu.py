import json
import shutil

import numpy as np
import pytest
from programs import run
from scipy.io import savemat
from trees import sysu_tree, text

from data.dataset import open_benchmark
from data.records import DataError
from data.sysu import SYSU

pytestmark = pytest.mark.filterwarnings("ignore:the galleries of")


def names(benchmark, rows):
    return [str(benchmark.test[row].path).removeprefix(f"{benchmark.root}/") for row in rows]


def test_train_and_val_identities_train_and_test_identities_test(tmp_path):
    data = SYSU(sysu_tree(tmp_path))
    assert {r.identity for r in data.train} == {1, 2, 3, 4} and {r.identity for r in data.test} == {5, 6}
    assert len(data.train) == 4 * 6 * 2
    assert all(r.infrared == (r.camera in (3, 6)) for r in data.train + data.test)


def test_queries_are_infrared_and_galleries_visible(tmp_path):
    data = open_benchmark("sysu", sysu_tree(tmp_path))
    assert data.default_protocols() == ["sysu/all/single-shot/random", "sysu/indoor/single-shot/random"]
    for search, cameras in (("all", {1, 2, 4, 5}), ("indoor", {1, 2})):
        protocol = data.protocol(f"sysu/{search}/single-shot/random")
        assert len(protocol.trials) == 10 and protocol.counts == "identities"
        for trial in protocol.trials:
            assert {data.test[row].camera for row in trial.query} == {3, 6} and len(trial.query) == 8
            assert {data.test[row].camera for row in trial.gallery} == cameras
            assert len(trial.gallery) == 2 * len(cameras)


def test_files_that_are_no_images_change_nothing(tmp_path):
    before = SYSU(sysu_tree(tmp_path)).protocol("sysu/all/single-shot/random").trials
    for name in ("Thumbs.db", "._0001.jpg", "0000.jpg.part"):
        text(tmp_path / "cam1" / "0005" / name, "")
    after = SYSU(tmp_path).protocol("sysu/all/single-shot/random").trials
    assert [t.gallery.tolist() for t in after] == [t.gallery.tolist() for t in before]


def test_camera_three_ignores_camera_two_and_nothing_else_is_ignored(tmp_path):
    data = SYSU(sysu_tree(tmp_path))
    protocol = data.protocol("sysu/all/single-shot/random")
    cameras = np.array([r.camera for r in data.test])
    trial = protocol.trials[0]
    ignored = protocol.query_ignores[trial.query][:, None] == protocol.gallery_group[trial.gallery][None]
    expected = (cameras[trial.query] == 3)[:, None] & (cameras[trial.gallery] == 2)[None]
    assert (ignored == expected).all() and expected.any()


def test_random_galleries_are_those_of_the_field_image_for_image(tmp_path, data_dir):
    stored = json.loads((data_dir / "galleries.json").read_text())["sysu"]
    for camera, folders in stored["images_per_camera_and_identity"].items():
        for identity, count in folders.items():
            for number in range(1, count + 1):
                text(tmp_path / f"cam{camera}" / identity / f"{number:04d}.jpg", "")
    text(tmp_path / "cam1" / "0999" / "0001.jpg", "")
    text(tmp_path / "cam3" / "0999" / "0001.jpg", "")
    text(tmp_path / "exp" / "train_id.txt", "999")
    text(tmp_path / "exp" / "val_id.txt", "999")
    text(tmp_path / "exp" / "test_id.txt", ",".join(map(str, stored["ids"])))
    data = SYSU(tmp_path)
    assert stored["gallery"]
    for key, expected in stored["gallery"].items():
        search, *shots, trial = key.split("/")
        assert shots in ([], ["multi"], ["single"])
        shots = "multi-shot" if shots == ["multi"] else "single-shot"
        trial = data.protocol(f"sysu/{search}/{shots}/random").trials[int(trial)]
        assert names(data, trial.gallery) == expected, key
        assert len(trial.query) == stored["queries"]


def test_multi_shot_takes_up_to_ten_of_each_folder(tmp_path):
    data = SYSU(sysu_tree(tmp_path, images=12))
    trial = data.protocol("sysu/indoor/multi-shot/random").trials[3]
    assert len(trial.gallery) == len(set(trial.gallery)) == 2 * 2 * 10


def test_galleries_of_another_size_than_the_complete_data_sets_are_warned_about(tmp_path):
    with pytest.warns(UserWarning, match="sysu/indoor/single-shot/random have 4 images.* 112"):
        SYSU(sysu_tree(tmp_path)).protocol("sysu/indoor/single-shot/random")


def permutations(counts):
    """cameras x identities of (trials x permutation) matrices, as in the original file."""
    cell = np.empty((6, 1), dtype=object)
    for camera in range(6):
        identities = np.empty((6, 1), dtype=object)
        for identity in range(6):
            rows = [np.roll(np.arange(1, counts + 1), trial) for trial in range(10)]
            identities[identity, 0] = np.array(rows)
        cell[camera, 0] = identities
    return cell


def test_official_galleries_follow_the_file(tmp_path):
    data = SYSU(sysu_tree(tmp_path, images=12))
    with pytest.raises(DataError, match="the official gallery needs .*exp/rand_perm_cam.mat, which comes with"):
        data.protocol("sysu/all/single-shot/official")
    assert not any(name.endswith("official") for name in data.available_protocols())
    savemat(tmp_path / "exp" / "rand_perm_cam.mat", {"rand_perm_cam": permutations(12)})
    assert data.available_protocols() == data.protocol_names()
    single = data.protocol("sysu/all/single-shot/official").trials
    assert names(data, single[0].gallery)[:2] == ["cam1/0005/0001.jpg", "cam2/0005/0001.jpg"]
    assert names(data, single[1].gallery)[0] == "cam1/0005/0012.jpg"  # row 1 is rolled by one
    multi = data.protocol("sysu/indoor/multi-shot/official").trials
    assert names(data, multi[2].gallery)[:3] == ["cam1/0005/0011.jpg", "cam1/0005/0012.jpg", "cam1/0005/0001.jpg"]

    (tmp_path / "cam4" / "0006" / "0003.jpg").unlink()
    with pytest.raises(DataError, match="cam4/0006 has 11 files, but rand_perm_cam.mat permutes 12"):
        SYSU(tmp_path).protocol("sysu/all/single-shot/official")
    text(tmp_path / "exp" / "rand_perm_cam.mat", "no such thing")
    with pytest.raises(DataError, match="rand_perm_cam.mat is no MATLAB file with the variable rand_perm_cam"):
        SYSU(tmp_path).protocol("sysu/all/single-shot/official")


def test_a_complete_copy_is_silent_and_an_incomplete_one_warned_about(tmp_path):
    sysu_tree(tmp_path)
    summary = SYSU(tmp_path).summary()
    assert "4 (395)" in summary and "warning" in summary and "train, infrared: 16 images, not 11909" in summary
    assert "4 (-)" in summary  # train, visible: nobody told how many cameras there should be
    assert "warning" not in open_benchmark("synthetic", tmp_path).summary()


def test_the_embedded_data_set_is_read_by_the_same_reader(tmp_path):
    sysu_tree(tmp_path)
    data = open_benchmark("synthetic", tmp_path)
    assert data.protocol_names()[0] == "synthetic/all/single-shot/random"
    rows = [t.gallery.tolist() for t in data.protocol("synthetic/all/single-shot/random").trials]
    assert rows == [t.gallery.tolist() for t in SYSU(tmp_path).protocol("sysu/all/single-shot/random").trials]


def test_fingerprint_tells_copies_apart(tmp_path):
    a = SYSU(sysu_tree(tmp_path / "a")).fingerprint()
    sysu_tree(tmp_path / "b")
    assert SYSU(tmp_path / "b").fingerprint() == a
    (tmp_path / "b" / "cam1" / "0001" / "0001.jpg").write_bytes(b"other")
    data = SYSU(tmp_path / "b")
    assert data.fingerprint() != a
    (tmp_path / "b" / "cam1" / "0001" / "0001.jpg").unlink()
    with pytest.raises(DataError, match="cam1/0001/0001.jpg was listed, but is not readable"):
        data.fingerprint()


def break_tree(root, how):
    if how == "no folder":
        shutil.rmtree(root)
    elif how == "no index":
        (root / "exp" / "val_id.txt").unlink()
    elif how == "bad index":
        text(root / "exp" / "test_id.txt", "5,six")
    elif how == "empty index":
        text(root / "exp" / "test_id.txt", "\n")
    elif how == "file for folder":
        shutil.rmtree(root / "cam2" / "0006")
        text(root / "cam2" / "0006", "")
    elif how == "no images":
        text(root / "exp" / "test_id.txt", "5,6,77")
    elif how == "one modality":
        for camera in (3, 6):
            shutil.rmtree(root / f"cam{camera}" / "0002")
    elif how == "overlap":
        text(root / "exp" / "test_id.txt", "4,5")


@pytest.mark.parametrize("how, complaint", [
    ("no folder", "there is no folder .*on request.*DATA.ROOT"),
    ("no index", "there is no index file .*exp/val_id.txt"),
    ("bad index", "exp/test_id.txt, line 1: 'six' is not an identity number"),
    ("empty index", "exp/test_id.txt is empty"),
    ("file for folder", "cam2/0006 should be a readable folder of images"),
    ("no images", "exp/test_id.txt lists identity 77, but .*cam.*0077 has no image"),
    ("one modality", "identity 2 has visible images only .*0002.* and no infrared one"),
    ("overlap", "identities \\[4\\] are both in training and in test"),
])
def test_bad_data_is_named(tmp_path, how, complaint):
    sysu_tree(tmp_path)
    break_tree(tmp_path, how)
    with pytest.raises(DataError, match=complaint):
        SYSU(tmp_path)


def test_an_unknown_protocol_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(DataError, match="nearest is 'sysu/indoor/single-shot/random'"):
        SYSU(sysu_tree(tmp_path)).protocol("sysu/indor/single-shot/random")
    without_indoor = SYSU(sysu_tree(tmp_path / "outdoor", cameras=(3, 4, 5, 6)))
    with pytest.raises(DataError, match="empty gallery"):
        without_indoor.protocol("sysu/indoor/single-shot/random")


def test_the_stub_has_the_shape_of_its_split_files(tmp_path):
    split = tmp_path / "split"
    split.mkdir()
    savemat(split / "rand_perm_cam.mat", {"rand_perm_cam": permutations(3)})
    text(split / "train_id.txt", "1,2")
    text(split / "test_id.txt", "5,6")
    command = ["scripts/make_sysu_stub.py", "--split", split, "--output", tmp_path / "stub"]
    done = run(*command)
    assert done.stdout.startswith("108 images"), done.stderr  # 6 cameras x 6 identities x 3
    data = SYSU(tmp_path / "stub")
    assert {r.identity for r in data.train} == {1, 2, 3, 4}  # 3 and 4 are in no list, so they stand in for val_id.txt
    assert len(data.train) == 72 and len(data.protocol("sysu/all/multi-shot/official").trials[0].gallery) == 2 * 4 * 3
    again = run(*command, check=False)
    assert again.returncode == 1 and "exists already" in again.stderr
    (split / "test_id.txt").unlink()
    lacking = run(*command, check=False)
    assert lacking.returncode == 1 and "there is no" in lacking.stderr and "split/test_id.txt" in lacking.stderr
