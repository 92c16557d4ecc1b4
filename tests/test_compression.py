"""Compressed embeddings, in a test and in a search, and what each way to search costs."""

import json

import benchmark_search
import pytest
import torch
from searches import checkpoint, find, run, write_images
from trees import sysu_tree

import test as evaluation
from assembly import gallery as searching
from utils.retrieval.compress import (
    CompressionError,
    load_directions,
    principal_directions,
    project,
    save_directions,
)
from utils.retrieval.index import SearchIndexError
from utils.training.checkpoint import CheckpointError

pytestmark = pytest.mark.usefixtures("thin")


@pytest.mark.parametrize("images", [30, 12, 5])
def test_directions_are_the_right_singular_vectors_and_orthonormal(images):
    features = torch.randn(images, 12)
    number = min(images, 12)
    directions = principal_directions(features, number)
    torch.testing.assert_close(directions.T @ directions, torch.eye(number))
    singular = torch.linalg.svd(features.double(), full_matrices=False).Vh.T.float()
    torch.testing.assert_close((directions * singular).sum(dim=0).abs(), torch.ones(number))


def test_all_directions_keep_every_product_and_fewer_change_them_least():
    features, queries = torch.randn(50, 10) * torch.arange(1, 11) + 3, torch.randn(6, 10)
    products = features @ features.T
    everything = principal_directions(features, 10)
    torch.testing.assert_close(project(queries, everything) @ project(features, everything).T, queries @ features.T)

    def error(directions):
        short = project(features, directions)
        return (products - short @ short.T).square().sum()

    best = error(principal_directions(features, 3))
    eigenvalues = torch.linalg.eigvalsh(products.double()).flip(0)
    torch.testing.assert_close(best.double(), eigenvalues[3:].square().sum(), rtol=1e-4, atol=0.0)
    centred = principal_directions(features - features.mean(dim=0), 3)
    assert best < error(centred) and all(best < error(torch.linalg.qr(torch.randn(10, 3)).Q) for _ in range(20))


def test_more_directions_than_there_are_is_an_error():
    for number in (6, -1):
        with pytest.raises(CompressionError, match=f"EMBEDDING.DIM is {number}; 5 training images.*allow 1 to 5"):
            principal_directions(torch.randn(5, 8), number)


def test_directions_of_other_embeddings_are_not_taken(tmp_path):
    path, directions = tmp_path / "pca.pth", torch.randn(4, 2)
    assert load_directions(path, {}) is None
    save_directions(path, {"sha256": "a", "flip": True}, directions)
    assert torch.equal(load_directions(path, {"sha256": "a", "flip": True}), directions)
    assert load_directions(path, {"sha256": "b", "flip": True}) is None
    path.write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="pca.pth"):
        load_directions(path, {"sha256": "a", "flip": True})


def test_a_compressed_evaluation_and_search_share_what_was_learned(tmp_path, monkeypatch, capsys):
    path, data = checkpoint(tmp_path / "run"), sysu_tree(tmp_path / "data")
    results = {}
    for dim in (0, 8):
        run(evaluation, "--checkpoint", path, "DATA.ROOT", data, "EMBEDDING.DIM", dim)
        results[dim] = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert {result["weighting"] for result in results[0]} == {"equal", "neck"}
    assert {result["weighting"] for result in results[8]} == {"equal, PCA 8", "neck, PCA 8"}
    assert "equal, PCA 8" in capsys.readouterr().out
    assert (path.parent / "pca-8-equal.pth").exists() and (path.parent / "pca-8-neck.pth").exists()

    monkeypatch.setattr("assembly.embedding.principal_directions", None)  # nothing is learned again
    run(evaluation, "--checkpoint", path, "DATA.ROOT", data, "EMBEDDING.DIM", 8)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["results"] == results[8]
    run(evaluation, "--checkpoint", path, "--reuse", "DATA.ROOT", data, "EMBEDDING.DIM", 8)

    gallery = write_images(tmp_path / "gallery", range(4))
    found = find(path, gallery, gallery, tmp_path / "out", "--query-modality", "vis", "EMBEDDING.DIM", "8")
    assert all(found[name][0] == (name, pytest.approx(1, abs=1e-5)) for name in found)
    assert (searching.index_folder(tmp_path / "out", gallery, "vis") / "embeddings.bin").stat().st_size == 4 * 8 * 4
    with pytest.raises(SearchIndexError, match="another compression"):
        find(path, gallery, gallery, tmp_path / "out")
    with pytest.raises(CompressionError, match="allow 1 to 48"):
        run(evaluation, "--checkpoint", path, "DATA.ROOT", data, "EMBEDDING.DIM", 50)


def test_the_benchmark_measures_every_way_to_search(tmp_path, capsys):
    run(benchmark_search, "--rows", 300, "--numbers", 24, "--queries", 10, "--dims", 6, 12, "--folder", tmp_path)
    output = capsys.readouterr().out
    cells = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("| exact")]
    assert [row[0] for row in cells] == [f"exact, {kind}" for kind in ("float32", "float16", "PCA 6", "PCA 12")]
    answers = [float(row[8]) for row in cells]
    assert answers[0] == 100 and answers[1] > 90 and 0 < answers[2] < answers[3]
    assert [*tmp_path.iterdir()] == []


def test_the_benchmark_compares_compressions_by_their_map(cmfn, tmp_path, capsys):
    data = sysu_tree(tmp_path / "data")
    run(benchmark_search, "--checkpoint", cmfn, "DATA.ROOT", data, "--dims", 4, 48)
    numbers = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert [row[0] for row in numbers] == ["768 (whole)", "48", "4"]
    run(evaluation, "--checkpoint", cmfn, "DATA.ROOT", data, "EMBEDDING.DIM", 4, "--output", tmp_path / "results.json")
    mean = json.loads((tmp_path / "results.json").read_text())["results"][0]["mean"]
    assert numbers[2][1:3] == [f"{100 * mean[key]:.2f}" for key in ("rank1", "mAP")]
