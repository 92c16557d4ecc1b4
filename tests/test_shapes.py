"""Body-shape images: drawn, found beside the training images, read, cached, mixed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from assembly.recipe import body_shapes, cached_images, check_together, train_batches
from assembly.trained import fingerprints_of
from common.batch import Batch, Kind, Stream
from configs.load import ConfigError, load_config
from data.dataset import open_benchmark
from data.mixing import mixed
from data.records import DataError
from data.shapes import Shapes
from data.synthetic import SHAPES, write_synthetic
from utils.training.checkpoint import CheckpointError
from utils.training.distributed import Ranks

KINDS = [Kind(False), Kind(True), Kind(False, shape=True), Kind(True, shape=True)]
CPU = torch.device("cpu")


def config(data, *overrides):
    return load_config("configs/quickstart_sefel.yaml", [
        "DATA.ROOT", str(data), "SOLVER.IDENTITIES", "2", "DATA.WORKERS", "0", *overrides,
    ])


def test_the_drawn_shape_lies_where_the_body_is(shared_data):
    """What differs between two images of a camera is the body, more than the background."""
    shape = np.asarray(Image.open(shared_data / SHAPES / "cam1/0001/0001.jpg"), dtype=int)
    assert shape.shape == np.asarray(Image.open(shared_data / "cam1/0001/0001.jpg")).shape
    body = shape.max(axis=2) > 64
    assert 0.05 < body.mean() < 0.6 and body[len(body) // 3: -len(body) // 3].mean() > 2 * body[:, :2].mean()
    assert not (shared_data / SHAPES / "cam1/0005").exists()  # nobody trains on the test's people


def test_an_older_embedded_data_set_gets_its_shapes(tmp_path):
    size = {"train_identities": 2, "test_identities": 1, "images_per_camera": 1}
    write_synthetic(tmp_path / "set", **size)
    drawn = {path: path.read_bytes() for path in (tmp_path / "set" / SHAPES).rglob("*.jpg")}
    for path in sorted((tmp_path / "set" / SHAPES).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "set" / SHAPES).rmdir()
    before = open_benchmark("synthetic", tmp_path / "set").fingerprint()
    assert not write_synthetic(tmp_path / "set", **size) and len(drawn) == 12
    assert {path: path.read_bytes() for path in (tmp_path / "set" / SHAPES).rglob("*.jpg")} == drawn
    assert open_benchmark("synthetic", tmp_path / "set").fingerprint() == before


def test_a_batch_has_the_shapes_of_its_images(shared_data):
    plain = ["DATA.VISIBLE", "[['normalise']]", "DATA.INFRARED", "[['normalise']]", "DATA.SHAPE", "[['normalise']]"]
    cfg, benchmark = config(shared_data, *plain, "LOSS.MIXED", "0"), open_benchmark("synthetic", shared_data)
    shapes = body_shapes(cfg, benchmark)
    batches = train_batches(cfg, benchmark.train, shapes=shapes)
    batch, drawn = batches[0, 0], batches.sampler.batch(0, 0)
    assert [stream.kind for stream in batch.streams] == KINDS and len(batch) == 16 and batch.rows.sizes == [4, 4]
    assert batch.images().shape == batch.images(shape=True).shape == (8, 3, 64, 32) and batch.pasted is None
    for part, stream in zip((drawn.visible, drawn.infrared), batch.streams[2:]):
        for row, image in zip(part.rows, stream.images):
            path = Path(shapes.own[benchmark.train[row].path])
            assert path.relative_to(shared_data / SHAPES) == Path(benchmark.train[row].path).relative_to(shared_data)
            pixels = np.asarray(Image.open(path))[0, 0] / 255
            expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
            torch.testing.assert_close(image[:, 0, 0].double().numpy(), expected, atol=1e-5, rtol=0)
    other = train_batches(config(shared_data), benchmark.train, shapes=shapes)[0, 0].streams[2].images
    assert not torch.equal(other, batch.streams[2].images)  # draws of their own


def test_a_cache_holds_them_too(shared_data, tmp_path):
    benchmark = open_benchmark("synthetic", shared_data)
    drawn = []
    for cfg in (config(shared_data), config(shared_data, "DATA.CACHE", str(tmp_path))):
        shapes = body_shapes(cfg, benchmark)
        drawn.append(train_batches(cfg, benchmark.train, Ranks(), cached_images(cfg, benchmark), shapes)[0, 1])
    assert {path.name for path in tmp_path.iterdir()} >= {"synthetic-64x32", "synthetic-shapes-64x32"}
    for ours, theirs in zip(drawn[0].streams, drawn[1].streams):
        assert torch.equal(ours.images, theirs.images)


def test_a_training_goes_on_with_its_own_shapes_alone(shared_data, tmp_path):
    benchmark = open_benchmark("synthetic", shared_data)
    folder = shutil.copytree(shared_data / SHAPES, tmp_path / "shapes")
    parts = {"data": benchmark, "shapes": Shapes(benchmark, folder)}
    saved = fingerprints_of(parts, None, tmp_path)
    assert saved["data"] != saved["shapes"] and fingerprints_of(parts, saved, tmp_path) == saved
    assert fingerprints_of({"data": benchmark, "shapes": None}, None, tmp_path)["shapes"] is None
    with open(next(folder.rglob("*.jpg")), "ab") as file:
        file.write(b"0")
    with pytest.raises(CheckpointError, match="last.pth was trained on other data than .*/shapes now holds"):
        fingerprints_of(parts, saved, tmp_path / "last.pth")


def test_missing_shapes_are_counted_and_named(shared_data):
    benchmark = open_benchmark("synthetic", shared_data)
    with pytest.raises(DataError, match=r"24 of 24 training images have no body shape in .*/elsewhere, such as .*jpg"):
        Shapes(benchmark, "elsewhere")


def test_what_does_not_go_together_is_refused(shared_data):
    with pytest.raises(ConfigError, match="sefel learns from a body-shape image of each .* set DATA.SHAPES to their"):
        check_together(config(shared_data, "DATA.SHAPES", ""), CPU)
    with pytest.raises(ConfigError, match="SOLVER.SAMPLER is blind_chunks, whose batches have any mix of both"):
        check_together(config(shared_data, "SOLVER.SAMPLER", "blind_chunks"), CPU)
    with pytest.raises(ConfigError, match="sets DATA.SHAPES, which agw does not read; it is an option of sefel"):
        load_config("configs/quickstart_agw.yaml", ["DATA.SHAPES", "shapes"])
    with pytest.raises(ConfigError, match="one view, a list of the steps"):
        config(shared_data, "DATA.SHAPE", "[['normalise'], ['normalise']]")


def numbered(rows=6, height=8, width=4):
    """Each image's pixels tell its stream and row."""
    labels = torch.arange(rows) // 2
    return Batch([
        Stream(torch.full((rows, 3, height, width), 100.0 * i) + torch.arange(rows).view(-1, 1, 1, 1), labels, kind)
        for i, kind in enumerate(KINDS)
    ])


def test_a_mixed_batch_pastes_rows_of_the_other_modality():
    batch, found = numbered(), 0
    for step in range(30):
        other = mixed(batch, 0.5, (0, 0, step))
        if other.pasted is None:
            assert other is batch
            continue
        found += 1
        for i, partner in enumerate((1, 0, 3, 2)):
            images = other.streams[i].images[:, 0]                              # (B, H, W)
            inside = images[0] // 100 == partner
            assert ((images // 100 == partner) == inside).all()                 # the same rectangle everywhere
            assert inside.float().mean().item() == pytest.approx(1 - other.pasted.kept.item())
            if inside.any():
                rows = images[:, inside][:, 0].long() % 100
                assert sorted(rows.tolist()) == [*range(6)]
                if not other.streams[i].kind.shape:
                    assert torch.equal(other.pasted.labels.split(6)[i], batch.streams[0].labels[rows])
    assert 8 < found < 22
    assert torch.equal(batch.images(), numbered().images())                     # which nobody changed


def test_all_processes_mix_alike():
    first, second = (mixed(numbered(), 1.0, (3, 1, 4), rank) for rank in (0, 1))
    assert first.pasted.kept == second.pasted.kept
    assert not torch.equal(first.pasted.labels, second.pasted.labels)
