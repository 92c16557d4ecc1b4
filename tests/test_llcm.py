import json

import numpy as np
import pytest
from trees import llcm_tree, text

from data.llcm import LLCM
from data.records import DataError


def test_both_directions_and_three_readings(tmp_path):
    data = LLCM(llcm_tree(tmp_path))
    assert data.default_protocols() == ["llcm/ir-to-vis", "llcm/vis-to-ir/natural"]
    protocols = [data.protocol(name) for name in data.protocol_names()]
    shapes = {p.name: [(len(t.query), len(t.gallery)) for t in p.trials] for p in protocols}
    # 3 identities x 2 cameras x 2 images in each modality: 12 images, 6 folders.
    assert shapes["llcm/ir-to-vis"] == [(12, 6)] * 10
    assert shapes["llcm/vis-to-ir/natural"] == [(12, 6)] * 10
    assert shapes["llcm/vis-to-ir/transposed"] == [(6, 12)] * 10
    assert shapes["llcm/vis-to-ir/full"] == [(12, 12)]
    natural, transposed = (data.protocol(f"llcm/vis-to-ir/{r}").trials[4] for r in ("natural", "transposed"))
    assert natural.gallery.tolist() == transposed.query.tolist()
    assert all(data.test[row].infrared for row in natural.gallery)


def test_the_same_person_by_the_same_camera_is_ignored_but_in_full(tmp_path):
    data = LLCM(llcm_tree(tmp_path))
    protocol = data.protocol("llcm/ir-to-vis")
    for row, other in [(r, o) for r in range(len(data.test)) for o in range(len(data.test))]:
        a, b = data.test[row], data.test[other]
        assert (protocol.query_ignores[row] == protocol.gallery_group[other]) == (
            a.identity == b.identity and a.camera == b.camera
        )
    assert (data.protocol("llcm/vis-to-ir/full").query_ignores == -1).all()


def test_galleries_are_those_of_the_field_image_for_image(tmp_path, data_dir):
    stored = json.loads((data_dir / "galleries.json").read_text())["llcm"]
    llcm_tree(tmp_path, test=())
    text(tmp_path / "idx" / "test_id.txt", ",".join(map(str, stored["ids"])))
    for modality in ("vis", "nir"):
        (tmp_path / f"test_{modality}").mkdir()
        for camera, folders in stored["images_per_camera_and_identity"].items():
            for identity, count in folders.items():
                for number in range(1, count + 1):
                    name = f"{identity}_c{int(camera):02d}_s{number:03d}_f{number}_{modality}.jpg"
                    text(tmp_path / f"test_{modality}" / f"cam{camera}" / identity / name, "")
    data = LLCM(tmp_path)
    trials = {m: data.protocol(name).trials for m, name in zip(("vis", "nir"), data.default_protocols())}
    assert stored["gallery"]
    for key, expected in stored["gallery"].items():
        modality, trial = key.split("/")
        rows = trials[modality][int(trial)].gallery
        assert [data.test[row].path.removeprefix(f"{data.root}/") for row in rows] == expected, key


def test_training_cameras_come_from_the_file_names(tmp_path):
    data = LLCM(llcm_tree(tmp_path))
    assert {(r.identity, r.camera) for r in data.train} == {(0, 3), (1, 3)}
    assert sum(r.infrared for r in data.train) == len(data.train) / 2 == 4


def test_errors_name_the_file(tmp_path):
    llcm_tree(tmp_path)
    text(tmp_path / "nir" / "0001" / "0001_s000_f0_nir.jpg", "")
    text(tmp_path / "idx" / "train_nir.txt", "nir/0001/0001_c03_s000_f0_nir.jpg 0\nnir/0001/0001_s000_f0_nir.jpg 0\n")
    with pytest.raises(DataError, match="train_nir.txt, line 2: .*does not tell its camera"):
        LLCM(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        LLCM(tmp_path / "absent")


def test_known_numbers_stand_beside_the_found_ones(tmp_path):
    summary = LLCM(llcm_tree(tmp_path)).summary()
    assert "2 (713)" in summary and "3 (351)" in summary and np.char.count(summary, "warning") == 1
