"""Names of people and cameras that look alike: one person must not become two, nor one camera."""

import unicodedata

import pytest
from trees import write_image

from data.folder import Folder
from data.names import camera_numbers
from data.records import DataError

ZOE = unicodedata.normalize("NFC", "Zoë"), unicodedata.normalize("NFD", "Zoë")


def tree(root, by_day, by_night):
    for modality, names in (("day", by_day), ("night", by_night)):
        for seed, name in enumerate(names):
            write_image(root / modality / name / "0.png", seed=seed)
    return root


def test_one_name_in_two_spellings_is_refused(tmp_path):
    """As from a Mac and from another machine: who was one person would be two, each of one modality."""
    people = ["anna", "ben", "cleo", "dan"]
    with pytest.raises(DataError, match="which are one name in two spellings of Unicode, as macOS and other systems"):
        Folder(tree(tmp_path, [*people, ZOE[0]], [*people, ZOE[1]]))


def test_names_that_differ_in_capital_letters_are_told(tmp_path):
    people = ["ben", "cleo", "dan", "eve"]
    data = Folder(tree(tmp_path, [*people, "Anna"], [*people, "anna"]))
    assert "note: names that differ in capital letters are taken for different people: Anna, anna" in data.summary()
    assert "capital" not in Folder(tree(tmp_path / "b", people, people)).summary()


def test_a_camera_is_one_however_it_is_written():
    numbers = camera_numbers({"cam1", "Camera 01", "1", "Door", "door", "yard", *ZOE})
    assert numbers["cam1"] == numbers["Camera 01"] == numbers["1"] and numbers["Door"] == numbers["door"]
    assert numbers[ZOE[0]] == numbers[ZOE[1]] and len({*numbers.values()}) == 4
    assert camera_numbers({"yard", "Door", "3"}) == {"3": 1, "Door": 2, "yard": 3}  # as ever, where none is alike
    assert camera_numbers({"cam3", "C07", ""}) == {"cam3": 3, "C07": 7}
