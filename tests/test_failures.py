"""Where an evaluation fails: counted by hand and by enumeration, and the page in a browser."""

import itertools
import re
import shutil

import numpy as np
import pytest
import torch
from programs import run, run_apart
from test_report import BROWSERS, Page

from data.dataset import open_benchmark
from data.records import Protocol, Trial
from utils.evaluation.evaluator import evaluate_protocol, plain_similarities
from utils.evaluation.failures import (
    agreement,
    by_identity,
    confused_pairs,
    differences,
    gallery_sizes,
    pair_distances,
    rank1_by_size,
    search_all,
)

IDENTITIES, CAMERAS = [1, 2, 1, 2, 3], [3, 3, 1, 1, 2]
#                       queries      gallery


def toy(ignores=-1):
    rows = np.arange(5)
    return Protocol("toy", (Trial(rows[:2], rows[2:]),), "images", np.full(5, ignores), np.array(CAMERAS))


def searches_of(similarity, protocol=None, **options):
    def similarities(*_):
        yield 0, np.array([0, 1]), torch.tensor(similarity)

    return search_all(torch.zeros(5, 1), IDENTITIES, CAMERAS, protocol or toy(), similarities, **options)


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_two_queries_among_three_images(block_bytes):
    found = searches_of([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5]], block_bytes=block_bytes)
    assert found.first.tolist() == [3, 3] and found.right.tolist() == [2, 3] and found.place.tolist() == [3, 1]
    assert found.ap.tolist() == pytest.approx([1 / 3, 1])
    assert found.cameras == {(3, 1): (2, 1)}  # camera 2 shows neither of them
    # Of two images, the first query's person and one of the others; all three: the last of three.
    assert found.sizes.tolist() == [2, 3] and found.rank1.tolist() == pytest.approx([0.5, 0.5])
    one, two = by_identity(found, IDENTITIES)
    assert one == {"identity": 1, "searches": 1, "rank1": 0, "mAP": pytest.approx(1 / 3), "taken_for": 2}
    assert two["taken_for"] is None
    assert confused_pairs(found, IDENTITIES, 5) == [{"people": (1, 2), "wrong": 1, "searches": 2, "example": 0}]


def test_what_a_query_ignores_is_not_there():
    found = searches_of([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5]], toy(ignores=2))
    assert found.place.tolist() == [2, 1] and 2 not in {camera for _, camera in found.cameras}
    assert len(searches_of([[0.1, 0.9, 0.5]] * 2, toy(ignores=2)).query) == 2


def test_rank1_of_random_galleries_is_that_of_all_galleries():
    right = torch.tensor([[False, True, False, False, True, False], [True, False, False, False, False, False]])
    kept, sizes = torch.tensor([6, 4]), torch.tensor([1, 2, 3, 4, 6])
    found = rank1_by_size(right, kept, sizes)
    for query, (row, number) in enumerate(zip(right.tolist(), kept.tolist())):
        for column, size in enumerate(sizes.tolist()):
            galleries = [g for g in itertools.combinations(range(number), min(size, number)) if any(row[i] for i in g)]
            assert found[query, column].item() == pytest.approx(np.mean([row[min(g)] for g in galleries]))


def test_sizes_end_at_the_whole_gallery():
    assert gallery_sizes(301).tolist() == [2, 5, 10, 20, 50, 100, 200, 301] and gallery_sizes(1).tolist() == [1]


def test_two_networks_on_the_same_queries():
    a = searches_of([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5]])
    b = searches_of([[0.9, 0.1, 0.5], [0.1, 0.3, 0.5]])
    share, rows, gain = differences(a, b)
    assert share == {"both": 0, "a": 0.5, "b": 0.5, "neither": 0} and rows.tolist() == [0, 1]
    assert gain.tolist() == pytest.approx([2 / 3, -1 / 2]) and agreement(a, b) == pytest.approx(-1)
    with pytest.raises(ValueError, match="the two networks did not search for the same queries"):
        differences(a, search_all(torch.zeros(5, 1), IDENTITIES, CAMERAS, toy(),
                                  lambda *_: [(0, np.array([0]), torch.tensor([[0.1, 0.9, 0.5]]))]))


def test_distances_of_pairs_that_are_not_ignored():
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    same, others = pair_distances(features, IDENTITIES, toy(), block_bytes=1)
    assert same["number"] == 2 and same["mean"] == pytest.approx(0)
    assert others["number"] == 4 and others["mean"] == pytest.approx((1 + 2 + 1 + 1) / 4)
    same, others = pair_distances(features, IDENTITIES, toy(ignores=2))
    assert others["number"] == 2 and others["mean"] == pytest.approx(1)


def test_figures_are_those_of_the_evaluation(shared_data):
    benchmark = open_benchmark("synthetic", shared_data)
    features = torch.nn.functional.normalize(torch.randn(len(benchmark.test), 4), dim=1)
    who, where = ([getattr(record, name) for record in benchmark.test] for name in ("identity", "camera"))
    for name in ("synthetic/all/single-shot/random", "synthetic/vis-to-vis/multi-shot/random"):
        protocol = benchmark.protocol(name)
        found = search_all(features, who, where, protocol, plain_similarities, block_bytes=5000)
        wanted = evaluate_protocol(features, who, protocol, flip=False, weighting="neck", per_query=True)["trials"]
        assert found.query.tolist() == [row for trial in wanted for row in trial["queries"]["rows"]]
        assert found.hit.tolist() == [rank == 1 for trial in wanted for rank in trial["queries"]["rank"]]
        np.testing.assert_allclose(found.ap, np.concatenate([trial["queries"]["ap"] for trial in wanted]))
        assert found.rank1[-1] == pytest.approx(found.hit.mean())


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory):
    """Of two runs."""
    file = tmp_path_factory.mktemp("failures") / "page.html"
    words = ["scripts/failures.py", trained("quickstart_base"), "--against", trained("quickstart_mcja")]
    done = run(*words, "--output", file, "TEST.FLIP", "false", drawn=False)
    assert "A: Two-stream baseline (quickstart_base): 60 searches, Rank-1 " in done.stdout
    return file


def test_the_page_holds_everything_and_refers_to_nothing(page):
    content = page.read_text()
    shown, words = Page(content), " ".join(Page(content).words)
    for wanted in ("Who is taken for whom", "By person", "By pair of cameras", "By number of gallery images",
                   "Distances", "B alone right", "synthetic/all/single-shot/random, 10 galleries", "embedded data set"):
        assert wanted in words
    assert all(re.match(r"data:image/(png|jpeg);base64,", source) for source in shown.sources)
    assert "url(" not in content and "@import" not in content and "<script" not in content
    assert len(content) < 2e6 and content.count("data:image/jpeg") >= 3


def test_the_page_on_a_phone_in_a_browser(page, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"there is none of {', '.join(BROWSERS)}")
    measured = "<script>document.title = [innerWidth, document.documentElement.scrollWidth, document.images.length, " \
               "[...document.images].filter(i => i.complete && i.naturalWidth).length].join(' ')</script></body>"
    open_to_scripts = re.sub(r"<meta http-equiv.*?>", "", page.read_text()).replace("</body>", measured)
    (tmp_path / "page.html").write_text(open_to_scripts)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               "--window-size=500,900", "--dump-dom", (tmp_path / "page.html").as_uri()]  # no narrower window is had
    done = run_apart(*command, timeout=120)
    width, needed, images, drawn = map(int, re.search(r"<title>(.*?)</title>", done.stdout)[1].split())
    assert needed <= width <= 500 and images == drawn > 5, done.stderr
    assert "Who is taken for whom" in done.stdout


def test_of_one_run_with_a_reranking_and_what_is_too_much(trained, tmp_path):
    file = tmp_path / "page.html"
    words = ["scripts/failures.py", trained("quickstart_base"), "--output", file]
    run(*words, "--protocol", "synthetic/indoor/single-shot/random", "--pairs", "1", "TEST.RERANK", "aim", drawn=False)
    text = " ".join(Page(file.read_text()).words)
    assert "re-ranked by aim (k1 2, k2 2)" in text and "The two on the same queries" not in text
    done = run(*words, "--pairs", "41", check=False)
    assert "--pairs is 41, and the page, which holds all images, has 40 at most" in done.stderr
