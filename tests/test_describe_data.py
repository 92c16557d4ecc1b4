"""scripts/describe_data.py: what is in a data set's folder."""

import json
import shutil

import pytest
from PIL import Image
from programs import run
from trees import folder_tree, llcm_tree, market_tree, regdb_tree, sysu_tree, text, write_image

from data.folder import Folder

TREES = {"sysu": sysu_tree, "regdb": regdb_tree, "llcm": llcm_tree, "market": market_tree, "folder": folder_tree}


def describe(name, root, output, *more, check=True):
    words = ["DATA.NAME", name, "DATA.ROOT", root, "--output", output, "--workers", "1", *more]
    done = run("scripts/describe_data.py", *words, check=check)
    return done, json.loads((output / "data.json").read_text()) if check else None


@pytest.mark.parametrize("name", TREES)
def test_every_data_set_is_described(tmp_path, name):
    done, found = describe(name, TREES[name](tmp_path / "data"), tmp_path / "out")
    assert found["name"] == name and len(found["fingerprint"]) == 64 and {*found["sizes"]} == {"6x12"}
    assert {*found["parts"]} == {"train", "test"} and "1 size of images, width x height: 6x12" in done.stdout
    with Image.open(tmp_path / "out" / "data.jpg") as sheet:
        assert sheet.width > 300 and sheet.height > 128


def test_copies_broken_images_and_people_of_one_modality_are_named(tmp_path):
    root = tmp_path / "data"
    folder_tree(root, ("anna", "ben"), split="train")
    folder_tree(root, ("cleo", "dan"), split="test")
    shutil.copy(root / "train/day/anna/0.jpg", root / "test/day/cleo/0.jpg")       # a leak
    shutil.copy(root / "test/night/cleo/0.jpg", root / "test/night/dan/0.jpg")     # of two people
    write_image(root / "test/day/dan/5.jpg", seed=7), write_image(root / "test/day/dan/6.jpg", seed=7)
    text(root / "test/day/dan/9.jpg", "no image"), text(root / "walk.mov", "")
    shutil.rmtree(root / "train/night/ben")                                        # the programs refuse that
    done, found = describe("folder", root, tmp_path / "out")
    groups = [(copy["identities"], copy["parts"]) for copy in found["copies"]]
    assert groups == [([1, 3], ["test", "train"]), ([3, 4], ["test"]), ([4], ["test"])]
    for words in (
        "1 group of images of the same bytes in several parts, which leaks what was trained on into the test: ",
        "2 groups of images of the same bytes of several identities, of which one alone can be right",
        "1 group of images of the same bytes of one identity", "1 image cannot be read: test/day/dan/9.jpg",
        "train: 1 identity is shown by one modality alone: ben",
    ):
        assert f"warning: {words}" in done.stdout
    assert found["other_files"] == "1 .mov (such as walk.mov)" and "\nother files: 1 .mov (such as walk" in done.stdout
    assert found["names"] == {"1": "anna", "2": "ben", "3": "cleo", "4": "dan"}
    assert found["parts"]["test"]["visible"]["images_of_an_identity"] == [2, 5]
    assert [*found["broken"]] == ["test/day/dan/9.jpg"]


def test_images_that_no_list_has_are_named(tmp_path):
    root = regdb_tree(tmp_path / "data")
    write_image(root / "Visible" / "extra" / "0.bmp")
    done, _ = describe("regdb", root, tmp_path / "out")
    assert "warning: 1 image is in no part: Visible/extra/0.bmp" in done.stdout
    assert "other files: 4 .txt (such as idx/test_thermal_1.txt)" in done.stdout


def test_a_drawn_split_is_written_down(tmp_path):
    root = folder_tree(tmp_path / "data", [f"p{i}" for i in range(12)], cameras=("door", "hall"))
    before = Folder(root, validation_share=0.4)
    describe("folder", root, tmp_path / "out", "DATA.FOLDER.VALIDATION_SHARE", "0.4", "--list", root / "images.csv")
    after = Folder(root)
    assert (after.train, after.test, after.held_out) == (before.train, before.test, before.held_out)
    assert after.fingerprint() == before.fingerprint() and not hasattr(after, "split") and len(after.held_out) == 2


@pytest.mark.parametrize("words, said", [
    ([], "say which data set: DATA.NAME NAME DATA.ROOT FOLDER, or --config FILE"),
    (["DATA.NAME", "llcm", "DATA.ROOT", "x", "--list", "a.csv"],
     "--list is of a folder of one's own, and DATA.NAME is llcm"),
    (["DATA.NAME", "folder", "DATA.ROOT", "x", "--list", "README.md"], "--list is README.md, which is there already"),
])
def test_a_command_that_is_wrong_is_told(words, said):
    done = run("scripts/describe_data.py", *words, check=False)
    assert done.returncode and said in done.stderr
