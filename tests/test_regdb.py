import pytest
from trees import regdb_tree, text

from data.records import DataError
from data.regdb import RegDB


def test_both_directions_search_every_image_of_the_other_modality(tmp_path):
    data = RegDB(regdb_tree(tmp_path))
    assert len(data.train) == len(data.test) == 12
    forth, back = (data.protocol(name) for name in data.default_protocols())
    assert (forth.name, back.name) == ("regdb/1/visible-to-thermal", "regdb/1/thermal-to-visible")
    assert forth.counts == "images" and len(forth.trials) == 1
    assert not any(data.test[row].infrared for row in forth.trials[0].query) and len(forth.trials[0].query) == 6
    assert all(data.test[row].infrared for row in forth.trials[0].gallery)
    assert back.trials[0].query.tolist() == forth.trials[0].gallery.tolist()
    assert (forth.query_ignores == -1).all()


def test_a_split_reads_its_own_index(tmp_path):
    regdb_tree(tmp_path, split=1)
    regdb_tree(tmp_path, split=7, identities=2)
    assert {r.identity for r in RegDB(tmp_path, split=7).train} == {0, 1}
    with pytest.raises(DataError, match="train_visible_2.txt"):
        RegDB(tmp_path, split=2)
    with pytest.raises(DataError, match="splits 1 to 10, and DATA.SPLIT is 11"):
        RegDB(tmp_path, split=11)


def test_what_the_data_set_should_have_is_shown(tmp_path):
    summary = RegDB(regdb_tree(tmp_path)).summary()
    assert "3 (206)" in summary and "6 (2060)" in summary and "warning" in summary


@pytest.mark.parametrize("line", ["Visible/1/1.bmp", "Visible/1/1.bmp one", "7", "\nVisible/train1/0.bmp 1"])
def test_a_line_that_does_not_parse_is_named(tmp_path, line):
    regdb_tree(tmp_path)
    text(tmp_path / "idx" / "train_visible_1.txt", f"Visible/train0/0.bmp 0\n{line}\n")
    with pytest.raises(DataError, match="train_visible_1.txt, line 2: .*is not 'relative/path label'"):
        RegDB(tmp_path)


@pytest.mark.parametrize("name", ["Visible/train9/0.bmp", "Visible/train0/9.bmp", "Visible\\train0\\0.bmp"])
def test_a_line_without_its_image_is_named(tmp_path, name):
    regdb_tree(tmp_path)
    text(tmp_path / "idx" / "test_thermal_1.txt", f"Visible/train0/0.bmp 0\n{name} 1\n")
    with pytest.raises(DataError, match="test_thermal_1.txt, line 2: there is no image .*is the copy complete"):
        RegDB(tmp_path)


def test_line_ends_and_blank_lines_at_the_end_do_not_matter(tmp_path):
    records = RegDB(regdb_tree(tmp_path)).train
    path = tmp_path / "idx" / "train_visible_1.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b" \r\n") + b"\r\n\n")
    assert RegDB(tmp_path).train == records


def test_an_identity_seen_in_one_modality_only_is_named(tmp_path):
    regdb_tree(tmp_path)
    text(tmp_path / "idx" / "train_visible_1.txt", "Visible/train0/0.bmp 0\nVisible/train1/0.bmp 1\n")
    with pytest.raises(DataError, match="identity 2 has infrared images only"):
        RegDB(tmp_path)
