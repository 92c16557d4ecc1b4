"""Data sets as people have them: partial, renamed, unpacked by another tool, made on another system."""

import os
import re
import shutil
from contextlib import nullcontext

import pytest
import torch
from programs import run
from trees import llcm_tree, regdb_tree, sysu_tree, text, write_image

from assembly.embedding import learned_directions
from assembly.trained import check_same_run, load_run
from configs.load import load_config
from data.dataset import hold_out, open_benchmark
from data.files import list_images, read_ids
from data.llcm import LLCM
from data.pixels import open_image
from data.records import DataError, Record
from data.regdb import RegDB
from data.sampler import Chunks, WithReplacement
from data.sysu import SYSU
from train import Trainer
from utils.training.checkpoint import CheckpointError, save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:the galleries of")
TREES = {"sysu": sysu_tree, "regdb": regdb_tree, "llcm": llcm_tree}
PARTS = {  # what a copy without that part lacks: images, lists
    ("sysu", "train"): (["cam?/000[1-4]"], ["exp/train_id.txt", "exp/val_id.txt"]),
    ("sysu", "test"): (["cam?/000[56]"], ["exp/test_id.txt"]),
    ("regdb", "train"): (["*/train?"], ["idx/train_*"]),
    ("regdb", "test"): (["*/test?"], ["idx/test_*"]),
    ("llcm", "train"): (["vis", "nir"], ["idx/train_*"]),
    ("llcm", "test"): (["test_*"], ["idx/test_id.txt"]),
}


def remove(root, *patterns):
    for pattern in patterns:
        found = [*root.glob(pattern)]
        assert found, pattern
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return root


def without(part, name, root, lists=True):
    """A copy of a data set without "train" or "test": the images, and the lists too if those are to go."""
    images, indices = PARTS[name, part]
    return remove(TREES[name](root), *images, *(indices if lists else []))


def complaint(name, root, **options):
    with pytest.raises(DataError) as caught:
        open_benchmark(name, root, **options)
    return str(caught.value)


# Partial copies


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("name", TREES)
def test_a_copy_for_the_test_alone_has_the_same_protocols(tmp_path, name, lists):
    complete = open_benchmark(name, TREES[name](tmp_path / "complete"))
    data = open_benchmark(name, without("train", name, tmp_path / "partial", lists))
    for protocol in data.default_protocols():
        for ours, theirs in zip(data.protocol(protocol).trials, complete.protocol(protocol).trials, strict=True):
            assert ours.query.tolist() == theirs.query.tolist() and ours.gallery.tolist() == theirs.gallery.tolist()
    assert "note: this copy has no training images, so it serves for test alone" in data.summary()
    assert "train, " not in data.summary() and data.fingerprint() != complete.fingerprint()
    assert data.training_identities() == {"sysu": 395, "regdb": 206, "llcm": 713}[name]
    with pytest.raises(DataError, match="no training images, which training, DATA.CACHE and EMBEDDING.DIM need: .+"):
        _ = data.train


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("name", TREES)
def test_a_copy_for_training_alone_trains(tmp_path, name, lists):
    complete = open_benchmark(name, TREES[name](tmp_path / "complete"))
    data = open_benchmark(name, without("test", name, tmp_path / "partial", lists))
    paths = [[r.path.removeprefix(f"{x.root}/") for r in x.train] for x in (data, complete)]
    assert paths[0] == paths[1] and data.training_identities() == complete.training_identities()
    assert "note: this copy has no test images, so it serves for training alone" in data.summary()
    with pytest.raises(DataError, match="has no test images, which protocols need: .+"):
        data.protocol(data.default_protocols()[0])


@pytest.mark.parametrize("name", TREES)
def test_a_copy_of_neither_part_is_an_error(tmp_path, name):
    without("train", name, tmp_path, lists=False)
    remove(tmp_path, *PARTS[name, "test"][0])
    assert re.search("(none of the .*|neither test_vis nor test_nir.*){2}", complaint(name, tmp_path))


def test_a_list_that_its_images_need_is_missed(tmp_path):
    sysu = remove(sysu_tree(tmp_path / "sysu"), "exp/val_id.txt")
    assert "there is no index file" in complaint("sysu", sysu)
    regdb = remove(regdb_tree(tmp_path / "regdb"), "idx/train_thermal_1.txt")
    assert "there is no index file" in complaint("regdb", regdb)
    llcm = remove(llcm_tree(tmp_path / "llcm"), "test_nir")
    assert "there is no folder" in complaint("llcm", llcm)


def trainer(root, run, *options, resume=False):
    small = ["DEVICE", "cpu", "DATA.WORKERS", "0", "SOLVER.IDENTITIES", "2", "SOLVER.IMAGES", "2"]
    cfg = load_config("configs/quickstart_cmfn.yaml", [*small, "DATA.ROOT", str(root), "OUTPUT", str(run), *options])
    return Trainer(cfg, resume, torch.device("cpu"))


def test_the_programs_on_partial_copies(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.reporting.report.write_report", lambda *_: [tmp_path])  # drawing it takes seconds
    test_only, train_only = without("train", "sysu", tmp_path / "test"), without("test", "sysu", tmp_path / "train")
    folder = tmp_path / "run"
    with pytest.raises(DataError, match="no training images, which training"):
        trainer(test_only, folder)
    with pytest.raises(DataError, match="no test images"):
        trainer(train_only, folder, "SOLVER.CHOOSE_BEST_ON_TEST_DATA", "true")
    trainer(train_only, folder).save()
    with pytest.raises(DataError, match="no training images, which training"):
        trainer(test_only, folder, resume=True)

    run("test.py", "--checkpoint", folder, "DATA.ROOT", test_only)
    cfg = load_config("configs/quickstart_cmfn.yaml", ["EMBEDDING.DIM", "4", "OUTPUT", str(folder)])
    with pytest.raises(DataError, match="no training images, .* EMBEDDING.DIM need"):  # of test.py and search.py alike
        learned_directions(None, ["equal"], lambda: SYSU(test_only).train, cfg, {}, torch.device("cpu"))


def test_training_is_refused_where_validation_would_have_no_query(tmp_path):
    sysu_tree(tmp_path / "data", cameras=(2, 3))
    with pytest.raises(DataError, match="synthetic/validation has no valid query"):
        trainer(tmp_path / "data", tmp_path / "run", "SOLVER.VALIDATION_IDS", "2")


@pytest.mark.parametrize("cameras, reason", [
    ((2, 3), r"has no valid query: its queries are of cameras \[3\], its gallery of cameras \[2\], and each query ign"),
    ((1, 2, 4, 5), r"has an empty query: there are images of cameras \[1, 2, 4, 5\] alone"),
    ((3, 6), r"has an empty gallery: there are images of cameras \[3, 6\] alone"),
])
def test_cameras_that_no_query_can_be_answered_with_are_named(tmp_path, cameras, reason):
    data = SYSU(remove(sysu_tree(tmp_path, cameras=cameras), "cam?/000[1-4]"))
    for search in ("all", "indoor"):
        with pytest.raises(DataError, match=f"trial 0 of sysu/{search}/single-shot/random {reason}"):
            data.protocol(f"sysu/{search}/single-shot/random")


@pytest.mark.parametrize("cameras, only, missing", [
    ((1, 2, 4, 5), "visible", "infrared"), ((3, 6), "infrared", "visible"),
])
def test_training_images_of_one_modality_are_named(tmp_path, cameras, only, missing):
    said = complaint("sysu", sysu_tree(tmp_path, cameras=cameras))
    assert f"only {only} training images, of cameras {[*cameras]}, and no {missing} one" in said


def test_one_camera_less_is_a_warning(tmp_path):
    data = SYSU(sysu_tree(tmp_path, cameras=(1, 2, 3, 4, 5)))
    assert len(data.protocol("sysu/all/single-shot/random").trials[0].query) == 4 and "warning" in data.summary()


def test_people_whom_only_the_gallery_or_the_queries_show(tmp_path):
    sysu_tree(tmp_path, cameras=(1, 3))
    remove(tmp_path, "cam1/0005", "cam3/0006")
    with pytest.raises(DataError, match="and no query has its person there"):
        SYSU(tmp_path).protocol("sysu/all/single-shot/random")


def test_a_protocol_that_ignores_nothing_needs_no_second_camera(tmp_path):
    data = LLCM(remove(llcm_tree(tmp_path), "test_vis/cam1", "test_nir/cam4"))
    assert data.protocol("llcm/vis-to-ir/full").trials
    with pytest.raises(DataError, match="each query ignores all of its person"):
        data.protocol("llcm/vis-to-ir/natural")


def test_a_split_of_regdb_that_the_copy_lacks_is_named_with_those_it_has(tmp_path):
    regdb_tree(tmp_path, split=3), regdb_tree(tmp_path, split=7)
    assert re.search("no list of split 1, such as train_visible_1.txt, .* splits 3, 7: set DATA.SPLIT",
                     complaint("regdb", tmp_path))
    assert len(open_benchmark("regdb", tmp_path, split=7).test) == 12


@pytest.mark.parametrize("trained, then, refused", [
    ("regdb", {"DATA.SPLIT": "3"}, True),
    ("sysu", {"DATA.SPLIT": "3"}, False),
    ("sysu", {"DATA.NAME": "regdb", "DATA.SPLIT": "3"}, False),
    ("regdb", {"DATA.NAME": "sysu", "DATA.SPLIT": "3"}, False),
])
def test_the_split_check_is_for_models_of_regdbs_splits(tmp_path, monkeypatch, trained, then, refused):
    for name in ("build_network", "load_weights"):  # they come after the check, and take seconds
        monkeypatch.setattr(f"assembly.trained.{name}", lambda *_, **__: None)
    cfg = load_config(overrides=["DATA.NAME", trained])
    save_checkpoint(tmp_path / "last.pth", {"config": cfg.dump(), "identities": [], "model": {}, "epoch": 1, "step": 0})
    options = [word for pair in then.items() for word in pair]
    if refused:
        with pytest.raises(CheckpointError, match="was trained on split 1 of regdb; split 3 has a model of its own"):
            load_run(tmp_path, options, complete=False)
    else:
        assert load_run(tmp_path, options, complete=False)[1].DATA.SPLIT == 3


@pytest.mark.parametrize("name, refused", [("regdb", True), ("sysu", False)])
def test_a_resumed_training_may_have_another_split_of_what_has_none(name, refused):
    before, now = (load_config(overrides=["DATA.NAME", name, "DATA.SPLIT", split]) for split in "13")
    with pytest.raises(CheckpointError, match="DATA.SPLIT: 1, 3") if refused else nullcontext():
        check_same_run({"config": before.dump()}, now, "last.pth")


def test_a_split_means_nothing_to_other_data_sets(tmp_path):
    records = open_benchmark("sysu", sysu_tree(tmp_path / "sysu")).test
    assert open_benchmark("sysu", tmp_path / "sysu", split=99).test == records
    assert open_benchmark("llcm", llcm_tree(tmp_path / "llcm"), split=99).train


# Where the data set is


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("asked, there", [
    ("a", "a/a"), ("a", "a/b/a"), ("a/deeper", "a"), ("a/deeper/still", "a"), ("other", "a"), ("", "a"),
])
def test_a_data_set_that_is_nearby_is_found(tmp_path, name, asked, there):
    place = TREES[name](tmp_path / there)
    (tmp_path / asked).mkdir(parents=True, exist_ok=True)
    assert f"Did you mean DATA.ROOT {place}?" in complaint(name, tmp_path / asked)


def test_the_drawn_data_set_is_not_taken_for_the_real_one(tmp_path):
    """It has the same layout; the real one beside it is found all the same."""
    drawn = sysu_tree(tmp_path / "a-drawn-one")
    text(drawn / "synthetic.json", "{}")
    assert complaint("sysu", tmp_path / "nowhere").endswith("Then set DATA.ROOT to its folder.")
    assert f"Did you mean DATA.ROOT {drawn}?" in complaint("synthetic", tmp_path / "nowhere")
    real = sysu_tree(tmp_path / "real")
    assert f"Did you mean DATA.ROOT {real}?" in complaint("sysu", tmp_path / "nowhere")


def test_a_camera_for_the_data_set(tmp_path):
    sysu_tree(tmp_path)
    for asked in ("cam1", "cam1/0001", "exp"):
        assert complaint("sysu", tmp_path / asked).endswith(f"Did you mean DATA.ROOT {tmp_path}?")


@pytest.mark.parametrize("name, other", [
    ("sysu", "regdb"), ("regdb", "llcm"), ("llcm", "sysu"), ("synthetic", "llcm"),
])
def test_another_data_set_is_recognised(tmp_path, name, other):
    assert f"It looks like another data set: DATA.NAME {other}." in complaint(name, TREES[other](tmp_path))


def test_what_lies_there_by_no_name_of_ours_is_no_hint(tmp_path):
    root = tmp_path / "a" / "b" / "c"
    text(root / "notes.txt", "")
    for name in ("cam1", "exp"):
        text(root / "__MACOSX" / name / "._x", "")
    assert complaint("sysu", root).endswith("is the copy complete?")


@pytest.mark.parametrize("archive, said", [
    ("c.zip", "is the file .*c.zip: unpack"), ("c", "c.tar.gz, unpack that"), ("in", "in/sysu.zip, unpack that"),
])
def test_an_archive_is_to_be_unpacked(tmp_path, archive, said):
    place = tmp_path / "a" / "b"
    for name in ("c.zip" if archive == "c.zip" else "c.tar.gz", "in/sysu.zip"):
        text(place / name, "")
    assert re.search(said, complaint("sysu", place / archive))


def test_a_root_in_other_letters_is_named(tmp_path):
    sysu_tree(tmp_path / "SYSU-MM01")
    assert f"but {tmp_path}/SYSU-MM01: rename it" in complaint("sysu", tmp_path / "sysu-mm01")


def test_a_root_from_home_and_a_relative_one(tmp_path, monkeypatch):
    sysu_tree(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert open_benchmark("sysu", "~/data").train == open_benchmark("sysu", "data").train
    assert "~nobody-here/data', which leads nowhere" in complaint("sysu", "~nobody-here/data")


def test_a_root_that_leads_nowhere(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "DATA.ROOT" in complaint("sysu", tmp_path / "loop")
    assert "which is not UTF-8: rename that folder" in complaint("sysu", os.fsdecode(b"/caf\xe9"))


# Names


def renamed(root, **names):
    for before, after in names.items():
        (root / before).rename(root / after)
    return root


def test_cameras_and_people_by_other_names_of_the_same_number_change_no_gallery(tmp_path):
    plain = SYSU(sysu_tree(tmp_path / "plain"))
    root = renamed(sysu_tree(tmp_path / "other"), cam1="Cam1", cam2="CAM2", cam3="cam03")
    for folder in root.glob("cam[456]/000*"):
        folder.rename(folder.with_name(folder.name.lstrip("0")))
    other = SYSU(root)
    assert [(r.identity, r.camera) for r in other.test] == [(r.identity, r.camera) for r in plain.test]
    for ours, theirs in zip(*(x.protocol("sysu/all/single-shot/random").trials for x in (other, plain))):
        assert ours.gallery.tolist() == theirs.gallery.tolist()
    assert len(LLCM(renamed(llcm_tree(tmp_path / "llcm") / "test_vis", cam1="CAM01").parent).test) == 24


@pytest.mark.parametrize("twin", ["Cam1", "cam01", "cam1/1", "cam1/00001"])
def test_two_folders_of_one_number_are_named(tmp_path, twin):
    write_image(sysu_tree(tmp_path) / twin / "0001" / "0001.jpg")
    assert re.search("has both .* and .*: join them", complaint("sysu", tmp_path))


@pytest.mark.parametrize("name, before, after", [
    ("sysu", "exp", "Exp"), ("sysu", "exp/test_id.txt", "exp/Test_ID.txt"), ("sysu", "exp", "splits"),
    ("sysu", "exp/train_id.txt", "train_id.txt"), ("regdb", "idx", "IDX"), ("regdb", "idx", "index"),
    ("llcm", "test_nir", "Test_NIR"), ("llcm", "idx/train_vis.txt", "train_vis.txt"),
    ("llcm", "idx/test_id.txt", "test_id.txt"),
])
def test_what_is_under_another_name_is_named_with_the_right_one(tmp_path, name, before, after):
    root = TREES[name](tmp_path)
    (root / before).rename(root / after)
    said = complaint(name, root)
    assert f"{root / after}" in said and f"{root / before}" in said and "rename it" in said


@pytest.mark.parametrize("how, wanted", [
    (lambda line: line.replace("/", "\\"), "Visible/train0/0.bmp"),
    (lambda line: f"/home/someone/RegDB/{line}", "Visible/train0/0.bmp"),
    (lambda line: f"C:\\data\\{line}", "Visible/train0/0.bmp"),
    (lambda line: f"RegDB/{line}", "Visible/train0/0.bmp"),
    (lambda line: line.replace(".bmp", ".BMP"), "Visible/train0/0.bmp"),
    (lambda line: line.lower(), "Visible/train0/0.bmp"),
])
def test_lines_of_an_index_from_elsewhere_are_told_how_to_be(tmp_path, how, wanted):
    index = regdb_tree(tmp_path) / "idx" / "train_visible_1.txt"
    text(index, "".join(how(line) for line in index.read_text().splitlines(keepends=True)))
    said = complaint("regdb", tmp_path)
    assert f"{index}, line 1: there is no image" in said and said.endswith(f"the line should say {wanted}")


def test_dots_in_an_index_change_nothing(tmp_path):
    before = RegDB(regdb_tree(tmp_path))
    for index in (tmp_path / "idx").iterdir():
        text(index, "".join(f"./{line}" for line in index.read_text().splitlines(keepends=True)))
    after = RegDB(tmp_path)
    assert (after.train, after.test, after.fingerprint()) == (before.train, before.test, before.fingerprint())


def test_images_listed_twice(tmp_path):
    index = regdb_tree(tmp_path) / "idx" / "train_visible_1.txt"
    lines = index.read_text()
    text(index, f"{lines}Visible/train0/0.bmp 0\n")
    assert "train: 1 image is listed more than once" in RegDB(tmp_path).summary()
    text(index, f"{lines}Visible/train0/0.bmp 1\n")
    assert "line 7: " in complaint("regdb", tmp_path) and "label 1, and with 0 too" in complaint("regdb", tmp_path)
    text(index, lines)
    text(tmp_path / "idx" / "test_visible_1.txt", lines)
    assert "6 images are listed both for training and for test" in complaint("regdb", tmp_path)


# Lists of identities


@pytest.mark.parametrize("content", [
    b"5,6", b"5,6,\n", b"5, 6\r\n", b"\xef\xbb\xbf5,6", b"5\n6\n", b"5 6", b"5;6", b"0005,0006", b"5,\n6,\n", b"\n5,6",
])
def test_identities_between_whatever_separates_them(tmp_path, content):
    (tmp_path / "ids.txt").write_bytes(content)
    assert read_ids(tmp_path / "ids.txt") == [5, 6]


@pytest.mark.parametrize("content, said", [
    ("5,6".encode("utf-16"), "UTF-16 text"), ("5,6".encode("utf-16-le"), "UTF-16 text"), (b",,\n", "names no identity"),
    (b"5,-6", "line 1: '-6' is not an identity number"), (b"\xff5", "could not be read as text"),
    (b"", "is empty; it comes with the data set"),
])
def test_lists_that_cannot_be_read_are_named(tmp_path, content, said):
    (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"ids.txt.*{said}"):
        read_ids(tmp_path / "ids.txt")


def test_an_index_in_utf_16_is_named(tmp_path):
    index = regdb_tree(tmp_path) / "idx" / "test_visible_1.txt"
    index.write_text(index.read_text(), encoding="utf-16")
    assert "test_visible_1.txt is UTF-16 text" in complaint("regdb", tmp_path)


# Files


def test_what_systems_leave_beside_images_is_left_out(tmp_path):
    beside = ("Thumbs.db", ".DS_Store", "._0001.jpg", "desktop.ini", "0001.jpg.part")
    for name in (*beside, "0002.JPG", "0001.jpeg", "3.png"):
        text(tmp_path / name, "")
    assert list_images(tmp_path) == ["0001.jpeg", "0002.JPG", "3.png"]


def test_links_to_images_and_folders_are_followed(tmp_path):
    plain = SYSU(sysu_tree(tmp_path / "plain"))
    (tmp_path / "links").mkdir()
    for path in (tmp_path / "plain").iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    assert SYSU(tmp_path / "links").fingerprint() == plain.fingerprint()


@pytest.mark.parametrize("what", ["cam1", "cam1/0001", "cam1/0001/0001.jpg"])
@pytest.mark.parametrize("how", ["broken link", "other kind"])
def test_what_is_no_folder_or_no_file_is_named(tmp_path, what, how):
    path = remove(sysu_tree(tmp_path), what) / what
    if how == "broken link":
        path.symlink_to(tmp_path / "gone")
    elif what.endswith(".jpg"):
        path.mkdir()
    else:
        text(path, "")
    assert re.search(f"{what} should be (a readable folder|an image)", complaint("sysu", tmp_path))


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    sysu_tree(tmp_path)

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        assert "0001 should be a readable folder of images, but: Permission denied" in complaint("sysu", tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert f"the folder {tmp_path} may not be read" in complaint("sysu", tmp_path)


def test_a_name_that_is_not_utf_8_is_named(tmp_path):
    sysu_tree(tmp_path)
    with open(os.fsencode(tmp_path / "cam1" / "0001") + b"/caf\xe9.jpg", "wb"):
        assert r"cam1/0001 has the file 'caf\udce9.jpg', whose name is not UTF-8" in complaint("sysu", tmp_path)


def test_empty_images_are_named_before_any_is_decoded(tmp_path):
    data = SYSU(sysu_tree(tmp_path))
    for camera in (1, 6):
        text(tmp_path / f"cam{camera}" / "0005" / "0002.jpg", "")
    with pytest.raises(DataError, match="2 images are without content, such as .*cam1/0005/0002.jpg"):
        data.fingerprint()


def test_an_image_that_may_not_be_read_is_not_called_broken(tmp_path):
    with pytest.raises(DataError, match="could not be read .*; look at its permissions"):
        open_image(str(tmp_path / ("n" * 256)), 4, 4)  # a name that the system refuses


# Identities to train on


def test_people_with_fewer_images_than_a_batch_shows_are_shown_again():
    records = [Record(f"/{i}/{infrared}", i, 1, infrared) for i in range(3) for infrared in (False, True)]
    for sampler in (WithReplacement, Chunks):
        for rows, labels in sampler(records, identities=2, images=4, seed=0).batch(0, 0):
            assert [records[row].identity for row in rows] == labels.tolist() and len(rows) == 8


@pytest.mark.parametrize("identities", [4, 5])
def test_no_identity_would_be_left_to_train_on(tmp_path, identities):
    with pytest.raises(DataError, match=f"VALIDATION_IDS is {identities}, and the training set has 4"):
        hold_out(SYSU(sysu_tree(tmp_path)).train, identities, seed=0)
