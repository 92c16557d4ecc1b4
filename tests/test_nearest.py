"""The nearest rows of a gallery: the exact search, and FAISS where it pays and misses nothing."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from locks import can_lock
from searches import find, write_images

from assembly import gallery as searching
from utils.retrieval import nearest
from utils.retrieval.nearest import FaissMissing, faiss_search, search_exact

pytestmark = pytest.mark.usefixtures("thin")


def unit(*shape) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


@pytest.mark.parametrize("chunk_bytes", [1, 3000, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_exact_search_is_brute_force(chunk_bytes, dtype):
    queries, matrix = unit(7, 12), unit(101, 12).numpy().astype(dtype)
    current = np.arange(101) % 5 != 0
    scores, rows = search_exact(queries, matrix, current, 10, chunk_bytes)
    for query, score, row in zip(queries.numpy(), scores.numpy(), rows.tolist()):
        products = {i: float(matrix[i].astype(np.float32) @ query) for i in np.flatnonzero(current)}
        assert row == sorted(products, key=products.get, reverse=True)[:10]
        np.testing.assert_allclose(score, [products[i] for i in row], atol=1e-6)


def test_equal_scores_go_to_the_earlier_row_and_no_more_rows_come_than_take_part():
    matrix = np.tile(np.float32([[1, 0], [-1, 0], [0, 1]]), (3, 1))
    current = np.array([False, True, True, True, True, True, True, False, False])
    for chunk_bytes in (1, None):
        scores, rows = search_exact(torch.tensor([[1.0, 0.0]]), matrix, current, 8, chunk_bytes)
        assert rows.tolist() == [[3, 6, 2, 5, 1, 4]] and scores.tolist() == [[1, 1, 0, 0, -1, -1]]


def people(images: int, queries: int, width: int) -> tuple[torch.Tensor, np.ndarray]:
    """Queries and gallery rows around the same centres."""
    centres = unit(40, width)
    noise = 0.5 / width**0.5
    return (
        F.normalize(centres[torch.arange(queries) % 40] + noise * torch.randn(queries, width)),
        F.normalize(centres[torch.arange(images) % 40] + noise * torch.randn(images, width)).numpy(),
    )


def test_faiss_gives_the_exact_answers_of_current_rows_also_when_rows_are_added(tmp_path):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    queries, matrix = people(4000, 50, 300)
    sentences, file = [], tmp_path / "faiss.index"
    for number in (1200, 1300, 4000):
        current = np.arange(number) % 3 != 0
        scores, rows = faiss_search(queries, matrix[:number], current, 5, tmp_path, sentences.append)()
        _, exact_rows = search_exact(queries, matrix[:number], current, 5)
        assert (rows == exact_rows).float().mean() > 0.97 and current[rows.numpy()].all()
        one, _ = faiss_search(queries[:1], matrix[:number], current, 5, tmp_path, lambda _: None)()
        torch.testing.assert_close(one, scores[:1])
        products = (matrix[rows.numpy()] * queries[:, None].numpy()).sum(axis=2)
        np.testing.assert_allclose(scores, products, atol=1e-6)
    assert sum("of the exact answers of 32 queries" in sentence for sentence in sentences) == 3
    assert [s for s in sentences if not s.startswith("FAISS gives")] == [
        "training FAISS on 1200 embeddings", f"adding 1200 embeddings to {file}", f"adding 100 embeddings to {file}",
        "training FAISS on 4000 embeddings", f"adding 4000 embeddings to {file}",
    ]


def test_where_faiss_misses_answers_the_search_is_exact(tmp_path, monkeypatch):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    queries, matrix = unit(20, 16), unit(2000, 16).numpy()  # without neighbourhoods that lists could follow
    monkeypatch.setattr(nearest, "PROBES", (1,))
    sentences, current = [], np.ones(2000, dtype=bool)
    scores, rows = faiss_search(queries, matrix, current, 10, tmp_path, sentences.append)()
    assert "less than 95 %: searching exactly instead" in sentences[-1]
    exact_scores, exact_rows = search_exact(queries, matrix, current, 10)
    assert torch.equal(rows, exact_rows) and torch.equal(scores, exact_scores)


@pytest.mark.parametrize("damage", ["garbage", "another width", "another kind", "more rows"])
def test_a_faiss_index_of_something_else_is_made_anew(tmp_path, damage):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    queries, matrix = people(1200, 5, 12)
    file, current = tmp_path / "faiss.index", np.ones(1000, dtype=bool)
    if damage == "garbage":
        file.write_bytes(b"garbage" * 100)
    elif damage == "another kind":
        flat = faiss.IndexFlatIP(12)
        flat.add(matrix[:1000])
        faiss.write_index(flat, str(file))
    else:
        nearest.faiss_index(faiss, matrix[:, :8].copy() if damage == "another width" else matrix, tmp_path, str)
    sentences = []
    faiss_search(queries, matrix[:1000], current, 5, tmp_path, sentences.append)
    assert sentences[0] == "training FAISS on 1000 embeddings"
    assert faiss.read_index(str(file)).ntotal == 1000 and faiss.read_index(str(file)).d == 12


@pytest.fixture
def checks(monkeypatch) -> list[tuple[int, int]]:
    """Of each check of FAISS, rows and queries."""
    made, checked = [], nearest.checked

    def noting(*arguments):
        check = checked(*arguments)
        made.append((check["rows"], check["queries"]))
        return check

    monkeypatch.setattr(nearest, "checked", noting)
    return made


def test_a_check_of_faiss_holds_until_the_index_has_grown_or_more_is_asked(tmp_path, checks):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    queries, matrix = people(2200, 50, 12)

    def call(rows: int, number: int, top: int, kind: str = "ir") -> list[tuple[int, int]]:
        current, sentences = np.ones(rows, dtype=bool), []
        faiss_search(queries[:number], matrix[:rows], current, top, tmp_path, sentences.append, kind)()
        assert "of the exact answers" in sentences[-1]
        made = checks.copy()
        checks.clear()
        return made

    assert call(1000, 3, 5) == [(1000, 3)]
    assert call(1000, 3, 5) == call(1099, 2, 4) == []
    assert call(1099, 3, 6) == [(1099, 3)]        # more answers
    assert call(1099, 50, 6) == [(1099, 32)]      # more queries
    assert call(1208, 50, 6) == []
    assert call(1209, 50, 6) == [(1209, 32)]      # a tenth more rows
    assert call(1209, 50, 6, "vis") == call(1209, 50, 6) == [(1209, 32)]  # of another modality, and back
    (tmp_path / "faiss.json").write_text("[]")
    assert call(1209, 1, 1) == [(1209, 1)]
    (tmp_path / "faiss.index").unlink()
    assert call(1209, 1, 1) == [(1209, 1)]        # of another index


def test_that_faiss_misses_answers_is_kept_too(tmp_path, monkeypatch, checks):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    queries, matrix = unit(20, 16), unit(2000, 16).numpy()
    monkeypatch.setattr(nearest, "PROBES", (1,))
    current, sentences = np.ones(2000, dtype=bool), []
    results = [faiss_search(queries, matrix, current, 10, tmp_path, sentences.append)() for _ in range(2)]
    assert len(checks) == 1 and "searching exactly instead" in sentences[-1]
    assert torch.equal(results[1][1], search_exact(queries, matrix, current, 10)[1])
    monkeypatch.setitem(nearest.FAISS_FROM, "cpu", 1)
    assert not nearest.faiss_pays(20, matrix, 10, torch.device("cpu"), tmp_path)


def test_faiss_is_taken_for_much_work_for_little_memory_and_once_it_is_checked(cmfn, tmp_path, monkeypatch, capsys):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    gallery = write_images(tmp_path / "gallery", range(5))

    def by_faiss(output: str) -> bool:
        find(cmfn, gallery, gallery, tmp_path / output)
        return "FAISS gives 100.0 % of the exact answers of 5 queries" in capsys.readouterr().out

    assert not by_faiss("small")
    with monkeypatch.context() as patch:
        patch.setitem(nearest.FAISS_FROM, "cpu", 5 * 5 * 768)
        assert by_faiss("work")
    for bytes_left, expected in ((5 * 768 * 4, False), (5 * 768 * 4 - 1, True)):
        with monkeypatch.context() as patch:
            patch.setattr(nearest, "available_memory", lambda found=bytes_left: found)
            assert by_faiss("memory") == expected
    assert by_faiss("work") and by_faiss("memory") and not by_faiss("small")


def test_the_available_memory_is_the_systems(monkeypatch):
    if Path("/proc/meminfo").exists():
        assert 2**20 < nearest.available_memory() < 2**50
    for content in (lambda _: "MemFree: 1 kB", lambda _: (_ for _ in ()).throw(FileNotFoundError)):
        monkeypatch.setattr(Path, "read_text", content)
        assert nearest.available_memory() == float("inf")


def test_nobody_else_uses_the_index_while_faiss_is_made_ready(cmfn, tmp_path, monkeypatch):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    gallery, tried = write_images(tmp_path / "gallery", range(3)), []

    def noting(function):
        def call(*arguments):
            assert not can_lock(searching.index_folder(tmp_path / "out", gallery, "vis"), "index")
            tried.append(function.__name__)
            return function(*arguments)
        return call

    for function in (nearest.faiss_index, nearest.checked):
        monkeypatch.setattr(nearest, function.__name__, noting(function))
    find(cmfn, gallery, gallery, tmp_path / "out", "--method", "faiss")
    assert tried == ["faiss_index", "checked"]


def test_faiss_on_a_folder_of_images(cmfn, tmp_path, capsys):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed (requirements-optional.txt)")
    gallery = write_images(tmp_path / "gallery", range(7))
    exact = find(cmfn, gallery, gallery, tmp_path / "out", "--top", 9)
    found = find(cmfn, gallery, gallery, tmp_path / "out", "--top", 9, "--method", "faiss")
    assert "FAISS gives 100.0 % of the exact answers of 7 queries" in capsys.readouterr().out
    for query in exact:
        assert len(found[query]) == 7
        for name, score in dict(exact[query]).items():  # of five digits, whose difference as floats is not exactly 1e-5
            assert round(abs(dict(found[query])[name] - score), 7) <= 1e-5


def test_without_faiss_a_large_search_is_exact_and_says_what_to_install(cmfn, tmp_path, monkeypatch, capsys):
    gallery = write_images(tmp_path / "gallery", range(3))
    exact = find(cmfn, gallery, gallery, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setitem(nearest.FAISS_FROM, "cpu", 1)
    capsys.readouterr()
    assert find(cmfn, gallery, gallery, tmp_path / "out") == exact
    assert "requirements-optional.txt" in capsys.readouterr().out
    with pytest.raises(FaissMissing, match="requirements-optional.txt"):
        find(cmfn, gallery, gallery, tmp_path / "out", "--method", "faiss")
