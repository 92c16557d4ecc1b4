"""A folder of one's own: what is read of it, who searches whom, what is refused, and the programs on it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from programs import run
from shared import SMALL, copy_of
from trees import folder_tree, text, write_image

from assembly.trained import load_run, open_tested
from configs.load import ConfigError, load_config
from data.dataset import hold_out, open_benchmark, open_data
from data.folder import Folder
from data.records import DataError

PEOPLE = ("anna", "ben", "cleo", "dan")
HEAD = "path,identity,modality,camera,split"


def listed(root: Path, lines=None, head=HEAD, encoding="utf-8", people=PEOPLE, name="images.csv") -> Path:
    """The tree of two images a person and modality, with a list of these lines, or of all its images."""
    folder_tree(root, people)
    if lines is None:
        lines = [
            f"{modality}/{person}/{number}.jpg,{person},{modality},{1 + (modality == 'night')},"
            f"{'train' if i < len(people) / 2 else 'test'}"
            for i, person in enumerate(people) for modality in ("day", "night") for number in (0, 1)
        ]
    (root / name).write_text("\n".join([head, *lines]) + "\n", encoding=encoding)
    return root


def complaint(root, **options) -> str:
    with pytest.raises(DataError) as caught:
        open_benchmark("folder", root, **options)
    return str(caught.value)


def people_of(data, part) -> set[str]:
    names = {number: name for name, number in data.people.items()}
    return {names[record.identity] for record in data.records(part)}


# What is read


def test_a_list_and_folders_by_split_are_the_same_data_set(tmp_path):
    by_list = Folder(listed(tmp_path / "list"))
    folder_tree(tmp_path / "folders", ("anna", "ben"), split="train")
    by_folders = Folder(folder_tree(tmp_path / "folders", ("cleo", "dan"), split="test"))
    for part, names in (("train", {"anna", "ben"}), ("test", {"cleo", "dan"})):
        assert people_of(by_list, part) == people_of(by_folders, part) == names
        a, b = ([(r.identity, r.camera, r.infrared) for r in x.records(part)] for x in (by_list, by_folders))
        assert a == b and {(camera, infrared) for _, camera, infrared in a} == {(1, False), (2, True)}
    assert not hasattr(by_list, "split") and not by_list.notes


@pytest.mark.parametrize("words", [
    ("visible", "infrared"), ("RGB", "IR"), ("vis", "nir"), ("Day", "Night"), ("color", "thermal"),
])
def test_modalities_have_many_names(tmp_path, words):
    folder_tree(tmp_path, split="train")
    for old, new in zip(("day", "night"), words):
        (tmp_path / "train" / old).rename(tmp_path / "train" / new)
    assert sum(record.infrared for record in Folder(tmp_path).train) == len(Folder(tmp_path).train) / 2 == 8


@pytest.mark.parametrize("change", [
    lambda t: t.replace(",", ";"), lambda t: t.replace(",", "\t"), lambda t: "\ufeff" + t,
    lambda t: t.replace("\n", "\r\n"),
    lambda t: t.replace("day/", "./day/"), lambda t: t.replace("train", "Training"), lambda t: t + ",,,,\n\n",
    lambda t: "".join(f'"{line}"\n'.replace(",", '","') for line in t.splitlines()), lambda t: t.replace(",", " , "),
])
def test_what_spreadsheets_make_of_a_list_changes_nothing(tmp_path, change):
    before = Folder(listed(tmp_path))
    place = tmp_path / "images.csv"
    place.write_bytes(change(place.read_text()).encode())
    after = Folder(tmp_path)
    assert (after.train, after.test, after.fingerprint()) == (before.train, before.test, before.fingerprint())


def test_a_list_may_have_another_name_and_few_columns(tmp_path):
    lines = [f"{m}/{p}/{n}.jpg,{p},{m}" for p in PEOPLE for m in ("day", "night") for n in (0, 1)]
    listed(tmp_path, lines, "path,identity,modality", name="mine.csv")
    by_folders, by_list = Folder(tmp_path), Folder(tmp_path, listed="mine.csv")
    assert by_list.split == 1 and (by_list.train, by_list.test) == (by_folders.train, by_folders.test)


def test_names_that_are_numbers_stay_and_cameras_have_theirs(tmp_path):
    data = Folder(folder_tree(tmp_path, ("0007", "0012", "0100", "0101"), cameras=("cam03", "Camera 1")))
    records = [*data.train, *data.test]
    assert {r.identity for r in records} == {7, 12, 100, 101} and {r.camera for r in records} == {1, 3}
    named = Folder(folder_tree(tmp_path / "named", cameras=("door", "hall")))
    found = {(r.identity, r.camera) for r in [*named.train, *named.test]}
    assert found == {(i, c) for i in range(1, 5) for c in (1, 2)}


def test_the_fingerprint_is_of_what_a_list_says_too(tmp_path):
    before = Folder(listed(tmp_path)).fingerprint()
    text(tmp_path / "images.csv", (tmp_path / "images.csv").read_text().replace(",2,", ",3,"))
    assert Folder(tmp_path).fingerprint() != before


def test_files_that_are_not_read_are_counted_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr("data.formats.reads_heif", lambda: False)
    folder_tree(tmp_path)
    for name in ("day/anna/a.gif", "day/anna/b.GIF", "night/ben/c.heic", "walk.mp4", "day/README", "day/Thumbs.db"):
        text(tmp_path / name, "")
    text(tmp_path / "day" / "anna" / ".hidden", "")
    said = Folder(tmp_path).summary()
    assert "note: 5 files are not read: 2 .gif (such as day/anna/a.gif), 1 without an ending (such as day/R" in said
    assert "1 .heic (such as night/ben/c.heic; to read them: pip install -r requirements-optional.txt)" in said
    listed(tmp_path)
    text(tmp_path / "images.csv", "\n".join((tmp_path / "images.csv").read_text().splitlines()[:-1]))
    said = Folder(tmp_path).summary()
    assert "5 files are not read" in said and "note: 1 image is not in images.csv, such as " in said


def test_images_of_phones_are_read_where_their_library_is(tmp_path):
    heif, image = pytest.importorskip("pillow_heif"), pytest.importorskip("PIL.Image")
    folder_tree(tmp_path, split="train")
    heif.register_heif_opener()
    image.new("RGB", (16, 32), (200, 10, 10)).save(tmp_path / "train" / "day" / "anna" / "9.HEIC")
    data = Folder(tmp_path)
    path = next(record.path for record in data.train if record.path.endswith(".HEIC"))
    from data.pixels import open_image
    assert open_image(path, 8, 4).reshape(-1, 3).mean(axis=0) == pytest.approx([200, 10, 10], abs=12)


def test_an_image_of_a_phone_without_its_library_is_one_clear_line(tmp_path, monkeypatch):
    from data.pixels import open_image
    monkeypatch.setattr("data.pixels.reads_heif", lambda: False)
    with pytest.raises(DataError, match="is a HEIF image, for which pillow-heif is needed: pip install -r requirem"):
        open_image(str(tmp_path / "a.heic"), 4, 4)


# Splits


def test_a_split_is_drawn_by_identity_printed_and_the_same_again(tmp_path):
    people = [f"{i:02d}" for i in range(20)]
    folder_tree(tmp_path, people, images=1)
    data, again, other = Folder(tmp_path), Folder(tmp_path), Folder(tmp_path, split=2)
    train, test = people_of(data, "train"), people_of(data, "test")
    assert len(train) == len(test) == 10 and not train & test and people_of(again, "test") == test
    assert people_of(other, "test") != test and other.default_protocols()[0] == "folder/2/ir-to-vis/single-shot"
    assert f"DATA.SPLIT 1, DATA.FOLDER.TEST_SHARE 0.5), who are {', '.join(sorted(test))}" in data.summary()
    assert len(people_of(Folder(tmp_path, test_share=0.25), "test")) == 5
    folder_tree(tmp_path, ["20"], images=1)
    assert len(people_of(Folder(tmp_path), "test") ^ test) <= 2  # one more hardly changes it
    assert not Folder(tmp_path, test_share=1).records("train")


def test_who_is_seen_by_day_alone_is_drawn_for_the_test(tmp_path):
    folder_tree(tmp_path)
    write_image(tmp_path / "day" / "eve" / "0.jpg")
    data = Folder(tmp_path)
    assert "eve" in people_of(data, "test")
    assert "1 person is for the test, too, whom one modality alone shows: eve" in data.summary()


def test_people_are_held_out_for_validation(tmp_path):
    people = [f"{i:02d}" for i in range(20)]
    data = Folder(folder_tree(tmp_path / "drawn", people, images=1), validation_share=0.2)
    assert len(data.held_out) == 2 and data.held_out < {record.identity for record in data.train}
    train, held = hold_out(data.train, 0, seed=5, own=data.held_out)
    assert {record.identity for record in held} == data.held_out and len(train) == 16
    assert data.validation(held).name == "folder/validation"
    with pytest.raises(DataError, match="VALIDATION_IDS is 3, and the data set has 2 people for validation already"):
        hold_out(data.train, 3, seed=0, own=data.held_out)
    assert not Folder(tmp_path / "drawn", validation_share=0.1).held_out  # of one person nothing can be said
    for split, names in (("train", ("a", "b")), ("val", ("c", "d")), ("test", ("e",))):
        folder_tree(tmp_path / "given", names, split=split)
    given = Folder(tmp_path / "given")
    assert given.held_out == {3, 4} and people_of(given, "train") == {"a", "b", "c", "d"}


def test_a_folder_for_training_or_test_alone(tmp_path):
    with pytest.raises(DataError, match="has no test images, which protocols need: .* says of no image that it is for"):
        _ = Folder(folder_tree(tmp_path / "a", split="train")).test
    assert Folder(folder_tree(tmp_path / "b", split="test")).protocol("folder/ir-to-vis/single-shot").trials


# Protocols


def test_both_directions_search_one_image_of_each_person_and_camera(tmp_path):
    data = Folder(folder_tree(tmp_path, images=12, cameras=("1", "2"), split="test"))
    assert data.default_protocols() == ["folder/ir-to-vis/single-shot", "folder/vis-to-ir/single-shot"]
    for name in (*data.protocol_names(), *data.one_modality_protocols()):
        protocol = data.protocol(name)
        asking, shown = name.split("/")[1].split("-to-")
        assert len(protocol.trials) == 10 and protocol.counts == "identities"
        for trial in protocol.trials:
            assert {data.test[row].infrared for row in trial.query} == {asking == "ir"} and len(trial.query) == 96
            found = [data.test[row] for row in trial.gallery]
            assert {record.infrared for record in found} == {shown == "ir"}
            assert len({*trial.gallery.tolist()}) == len(found) == 4 * 2 * (10 if name.endswith("multi-shot") else 1)
    first, second = data.protocol(data.default_protocols()[0]).trials[:2]
    assert first.gallery.tolist() != second.gallery.tolist()


def test_a_query_ignores_its_persons_images_by_its_own_camera(tmp_path):
    data = Folder(folder_tree(tmp_path, cameras=("1", "2"), split="test"))
    protocol = data.protocol("folder/ir-to-vis/single-shot")
    same = [[(a.identity, a.camera) == (b.identity, b.camera) for b in data.test] for a in data.test]
    assert np.array_equal(protocol.query_ignores[:, None] == protocol.gallery_group[None], same)


def test_one_camera_that_sees_by_day_and_night_leaves_nobody_to_find(tmp_path):
    data = Folder(folder_tree(tmp_path, cameras=("1",), split="test"))
    with pytest.raises(DataError, match="no valid query: .* each query ignores all of its person"):
        data.protocol("folder/ir-to-vis/single-shot")
    without = Folder(folder_tree(tmp_path / "without", split="test"))  # one for each modality: nothing is ignored
    assert without.protocol("folder/ir-to-vis/single-shot").trials


# What is refused: lists


@pytest.mark.parametrize("lines, head, said", [
    (["day/anna/0.jpg,anna,day,1"], HEAD, "images.csv, line 2: 4 cells, where the first line names 5 columns"),
    (["day/anna/0.jpg,,day,1,test"], HEAD, "images.csv, line 2: there is no identity"),
    (["day/anna/7.jpg,anna,day,1,test"], HEAD, "images.csv, line 2: there is no image day/anna/7.jpg in "),
    (["DAY/Anna/0.JPG,anna,day,1,test"], HEAD, "the line should say day/anna/0.jpg"),
    (["day\\anna\\0.jpg,anna,day,1,test"], HEAD, "the line should say day/anna/0.jpg"),
    (["/home/me/day/anna/0.jpg,anna,day,1,test"], HEAD, "is an absolute path, where one from DATA.ROOT on is wanted"),
    (["C:\\day\\anna\\0.jpg,anna,day,1,test"], HEAD, "is an absolute path, where one from DATA.ROOT on is wanted: "),
    (["day/../../day/anna/0.jpg,anna,day,1,test"], HEAD, "line 2: day/../../day/anna/0.jpg leads out of DATA.ROOT"),
    (["day/anna/0.jpg,anna,day,1,test", "./day/anna/0.jpg,anna,day,1,test"], HEAD,
     "line 3: ./day/anna/0.jpg is listed in line 2 already; an image comes once"),
    (["day/anna/0.jpg,anna,dusk,1,test"], HEAD, "line 2: 'dusk' is no modality; known are visible (vis, rgb, day, "),
    (["day/anna/0.jpg,anna,day,1,exam"], HEAD, "line 2: 'exam' is no split; known are train (training); val"),
    (["day/anna/0.jpg,anna,day,1,test", "day/anna/1.jpg,anna,day,,test"], HEAD, "line 3: there is no camera, as "),
    (["day/anna/0.jpg,anna,day,1,", "day/anna/1.jpg,anna,day,1,test"], HEAD, "line 2: there is no split, as other "),
    (['"day/anna/0.jpg,anna,day,1,test'], HEAD, "line 2: its quotes are not a CSV file's ("),
    ([], "path,identity,kind", "line 1: there is no column modality; it names the columns, such as path,identity"),
    ([], "day/anna/0.jpg,anna,day", "line 1: there is no column path; "),
    ([], HEAD + "s", "line 1: the column 'splits' is unknown; rename it, perhaps to split, or remove it"),
    ([], HEAD + ",path", "line 1: the column path comes twice: remove one"),
    ([], HEAD, "images.csv is an image that is read; 1 file is not read: 1 .mp4"),
    (["walk.mp4,anna,day,1,test"], HEAD, "walk.mp4 is of a kind that is not read, .jpg, .jpeg, "),
    ([f"{m}/anna/0.jpg,anna,{m},1,{s}" for m, s in (("day", "train"), ("night", "test"))], HEAD,
     "identity anna is in train ("),
    ([f"{m}/anna/0.jpg,{p},{m},1,test" for m, p in (("day", "7"), ("night", "007"))], HEAD,
     "has the identities 007 and 7, which are one number: write it in one way"),
    (["day/anna/0.jpg,anna,day,1,train", *(f"{m}/ben/0.jpg,ben,{m},1,train" for m in ("day", "night"))], HEAD,
     "identity 1 has visible images only"),
    ([f"{m}/anna/0.jpg,anna,{m},1,val" for m in ("day", "night")], HEAD, "people for validation, and none to train on"),
    ([f"{m}/anna/0.jpg,anna,{m},1,train" for m in ("day",)], HEAD, "the copy has only visible training images"),
])
def test_a_list_that_is_wrong_is_told_in_which_line(tmp_path, lines, head, said):
    text(tmp_path / "walk.mp4", "")
    assert said in complaint(listed(tmp_path, lines, head))


@pytest.mark.parametrize("encoding, said", [
    ("utf-16", "is UTF-16 text"), ("latin-1", "could not be read as text: .*save it as UTF-8"),
])
def test_a_list_in_another_encoding_is_named(tmp_path, encoding, said):
    listed(tmp_path, ["day/anna/0.jpg,Zoë,day,1,test"], encoding=encoding)
    with pytest.raises(DataError, match=f"images.csv {said}"):
        Folder(tmp_path)


def test_a_list_that_is_not_there_is_named(tmp_path):
    assert "people.csv, which DATA.FOLDER.LIST names: write it" in complaint(folder_tree(tmp_path), listed="people.csv")


def test_a_split_of_its_own_is_not_drawn_again(tmp_path):
    assert "DATA.SPLIT is 2, and nothing is drawn of " in complaint(listed(tmp_path), split=2)


# What is refused: folders


@pytest.mark.parametrize("change, said", [
    (lambda p: (p / "dusk").mkdir(), "'dusk' is no modality; known are"),
    (lambda p: shutil.copytree(p / "day", p / "rgb"), "has day and rgb, which both mean visible: join them"),
    (lambda p: write_image(p / "0.jpg"), "0.jpg is in no person's folder: images lie in MODALITY/PERSON/"),
    (lambda p: write_image(p / "day" / "0.jpg"), "day/0.jpg is in no person's folder"),
    (lambda p: write_image(p / "day/anna/cam1/0.jpg"), "has images both beside folders (0.jpg) and in them (cam1)"),
    (lambda p: write_image(p / "day/eve/1/2/0.jpg"), "eve/1/2 is a folder in a camera's folder, one too deep: move"),
    (lambda p: os.mkdir(os.fsencode(p / "day") + b"/caf\xe9"), r"has the folder 'caf\udce9', whose name is not UTF-8"),
    (lambda p: shutil.copytree(p / "day", p / "train" / "day"), "'day' is no split; known are train"),
    (lambda p: shutil.rmtree(p / "night"), "gives no split, and has 0 people whom both modalities show: too few to"),
    (lambda p: [shutil.rmtree(x) for x in p.iterdir()], "there is neither images.csv nor a folder of images in "),
    (lambda p: [x.unlink() for x in p.rglob("*.jpg")], " is an image that is read. docs/own_data.md says how"),
])
def test_folders_that_are_wrong_are_named(tmp_path, change, said):
    change(folder_tree(tmp_path))
    assert said in complaint(tmp_path)


def test_another_data_set_is_recognised_in_a_folder(shared_data):
    said = complaint(shared_data)
    assert "is no modality" in said or "It looks like another data set: DATA.NAME sysu." in said


def test_options_of_a_folder_are_those_of_a_folder_alone():
    cfg = load_config(overrides=["DATA.NAME", "folder-lobby", "DATA.FOLDER.TEST_SHARE", "0.3"])
    assert cfg.DATA.FOLDER.TEST_SHARE == 0.3
    with pytest.raises(ConfigError, match="sets DATA.FOLDER.LIST, which changes nothing: it goes with DATA.NAME fold"):
        load_config(overrides=["DATA.NAME", "llcm", "DATA.FOLDER.LIST", "a.csv"])


# The programs


TINY = [*SMALL, "DATA.HEIGHT", "64", "DATA.WIDTH", "32", "MODEL.BACKBONE", "resnet18", "MODEL.PRETRAINED", "none"]


@pytest.fixture(scope="module")
def people(shared) -> Path:
    """Eight people, seen by two cameras by day and by two by night."""
    def make(path: Path) -> None:
        for camera in (1, 2, 3, 4):
            for i in range(8):
                place = path / ("day" if camera < 3 else "night") / f"p{i}" / f"cam{camera}"
                write_image(place / "0.jpg", seed=10 * i + camera)

    return shared.once("people", make)


@pytest.fixture(scope="module")
def trained_here(shared, people, thin) -> Path:
    def make(path: Path) -> None:
        own = ["DATA.FOLDER.VALIDATION_SHARE", "0.5"]
        run("train.py", "--config", "configs/folder_base.yaml", *TINY, *own, "DATA.ROOT", people, "OUTPUT", path,
            drawn=False)
        run("test.py", "--checkpoint", path, drawn=False)

    return shared.once("people-run", make)


def test_a_run_says_what_it_was_trained_and_tested_on(trained_here, people):
    saved = json.loads((trained_here / "results.json").read_text())
    data = open_data(load_config("configs/folder_base.yaml", [
        "DATA.ROOT", str(people), "DATA.FOLDER.VALIDATION_SHARE", "0.5",
    ]).DATA)
    assert saved["data"]["fingerprint"] == data.fingerprint() and len(data.held_out) == 2
    assert saved["checkpoint"]["trained_on"] == {"name": "folder", "split": 1, "fingerprint": data.fingerprint()}
    assert [*dict.fromkeys(r["protocol"] for r in saved["results"])] == data.default_protocols()
    assert (trained_here / "best.pth").exists()  # chosen by the people held out
    assert "no split is given: 4 people are drawn for training" in (trained_here / "train.log").read_text()


def test_a_training_goes_on_and_pictures_and_failures_are_made(trained_here, tmp_path, people):
    folder = copy_of(trained_here, tmp_path / "run")
    (folder / "best.pth").unlink()
    own = ["DATA.FOLDER.VALIDATION_SHARE", "0.5", "DATA.CACHE", str(tmp_path / "cache")]
    words = ["--config", "configs/folder_base.yaml", *TINY, *own, "DATA.ROOT", people]
    run("scripts/prepare.py", *words, "--workers", "1")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["folder-64x32-split1"]
    run("train.py", *words, "OUTPUT", folder, "SOLVER.EPOCHS", "2", "--resume", drawn=False)
    run("scripts/visualize.py", folder, "--parts", "ranking", "attention", drawn=False)
    run("scripts/failures.py", folder, "--against", trained_here, drawn=False)
    assert (folder / "pictures" / "ranking.png").exists() and (folder / "failures.html").exists()
    run("scripts/corruptions.py", "--checkpoint", folder, "--order", "resized", "--repeats", "1", drawn=False)
    assert json.loads((folder / "corruptions.json").read_text())["data"]["name"] == "folder"


def test_a_run_is_tested_on_another_folder_by_another_name_alone(trained_here, tmp_path):
    other = folder_tree(tmp_path / "other")
    output = ["--output", tmp_path / "results.json"]
    done = run("test.py", "--checkpoint", trained_here, "DATA.ROOT", other, *output, check=False)
    assert "was trained on other images, or otherwise listed ones, than " in done.stderr
    named = ["DATA.NAME", "folder-other", "DATA.ROOT", other]
    done = run("test.py", "--checkpoint", trained_here, *named, *output, check=False)
    assert "is drawn, and " in done.stderr and "was trained on another folder, which may show those" in done.stderr
    run("test.py", "--checkpoint", trained_here, *named, "DATA.FOLDER.TEST_SHARE", "1", *output, drawn=False)
    saved = json.loads((tmp_path / "results.json").read_text())
    assert {r["trained_on"] for r in saved["results"]} == {"folder"} and saved["data"]["name"] == "folder-other"


def test_a_model_of_one_drawn_split_is_not_tested_on_another(trained_here):
    done = run("test.py", "--checkpoint", trained_here, "DATA.SPLIT", "2", check=False)
    assert "was trained on split 1 of folder; split 2 has a model of its own" in done.stderr


def test_a_table_keeps_folders_apart(trained_here, tmp_path):
    for name in ("fingerprint", "name"):
        saved = json.loads((trained_here / "results.json").read_text())
        saved["data"][name] += "x"
        saved["checkpoint"]["sha256"] = "0"
        (tmp_path / f"{name}.json").write_text(json.dumps(saved))
        done = run("scripts/compare_results.py", trained_here / "results.json", tmp_path / f"{name}.json", check=False)
        assert {"fingerprint": "different copies of folder", "name": "B on folderx"}[name] in done.stderr
    done = run("scripts/reproduce_table.py", trained_here / "results.json", "--output", tmp_path / "table", check=False)
    assert "holds figures of folder; they have no place in a table of SYSU-MM01" in done.stderr


def test_a_copy_that_is_wrong_is_told_before_any_work(tmp_path):
    folder_tree(tmp_path / "data", split="train")
    shutil.rmtree(tmp_path / "data" / "train" / "night" / "ben")
    words = ["--config", "configs/folder_base.yaml", "DATA.ROOT", tmp_path / "data", "OUTPUT", tmp_path / "run"]
    done = run("train.py", *words, *TINY, check=False)
    assert done.returncode == 1 and "identity 2 has visible images only" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_network_was_trained_on_is_compared_by_fingerprint(trained_here, people):
    _, cfg, checkpoint = load_run(trained_here, [], complete=False)
    assert open_tested(cfg, checkpoint).split == 1
