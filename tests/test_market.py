"""Market-1501's layout, and training on images of one modality."""

import json

import numpy as np
import pytest
import torch
from programs import run
from shared import SMALL
from trees import market_tree, write_image

from assembly.recipe import build_loss, build_network, train_batches
from assembly.update import Update
from configs.load import ConfigError, load_config
from data.dataset import open_benchmark
from data.market import DISTRACTOR, Market
from data.records import DataError
from utils.training.distributed import Ranks


def test_the_query_images_search_all_but_junk_and_their_own_camera(tmp_path):
    data = Market(market_tree(tmp_path))
    protocol = data.protocol("market/vis-to-vis")
    trial, = protocol.trials
    assert len(trial.query) == 4 and len(trial.gallery) == 2 * 2 * 2 + 1 and protocol.counts == "images"
    assert {data.test[row].identity for row in trial.gallery} == {1, 3, DISTRACTOR} and data.junk == 1
    for query in trial.query:
        for row in trial.gallery:
            a, b = data.test[query], data.test[row]
            ignored = protocol.query_ignores[query] == protocol.gallery_group[row]
            assert ignored == ((a.identity, a.camera) == (b.identity, b.camera))
    assert "note: of bounding_box_test, 1 image is junk" in data.summary() and "3 (751)" in data.summary()
    assert "1 is a distractor, each counted as a person of its own" in data.summary()
    assert not any(record.infrared for record in [*data.train, *data.test])


def test_a_camera_of_many_is_no_other_persons(tmp_path):
    """Identity and camera are one number: 1's camera 201 must not be 3's camera 1."""
    write_image(market_tree(tmp_path) / "query" / "0001_c201s1_000001_01.jpg")
    data = Market(tmp_path)
    protocol = data.protocol("market/vis-to-vis")
    row = next(row for row, record in enumerate(data.test) if record.camera == 201)
    assert protocol.query_ignores[row] not in protocol.gallery_group[protocol.trials[0].gallery]


def test_people_held_out_search_one_another(tmp_path):
    data = Market(market_tree(tmp_path))
    protocol = data.validation(data.train)
    assert len(protocol.trials[0].query) == len(protocol.trials[0].gallery) == 12


def test_partial_copies_serve_alone(tmp_path):
    data = Market(market_tree(tmp_path))
    for path in (tmp_path / "bounding_box_train").iterdir():
        path.unlink()
    assert open_benchmark("market", tmp_path).test == data.test
    (tmp_path / "bounding_box_train").rmdir()
    with pytest.raises(DataError, match="has no training images, which training, .*there is no folder"):
        _ = open_benchmark("market", tmp_path).train


@pytest.mark.parametrize("name, said", [
    ("bounding_box_train/photo.jpg", "photo.jpg does not tell identity and camera as 0002_c1s1_000451_03.jpg does"),
    ("bounding_box_train/-1_c1s1_000001_01.jpg", "is junk or a distractor, which nobody trains on: move it"),
    ("query/-1_c1s1_000001_01.jpg", "is junk or a distractor, which nobody searches by: move it"),
    ("query/0000_c1s1_000001_01.jpg", "is junk or a distractor, which nobody searches by: move it"),
    ("query/1000000_c1s1_1.jpg", "is of identity 1000000 and camera 1, which are below 1000000 and 1000 here: number"),
    ("query/0003_c1000s1_1.jpg", "is of identity 0003 and camera 1000, which are below 1000000 and 1000 here: number"),
    ("query/0002_c1s1_000001_01.jpg", r"identities \[2\] are both in training and in test"),
])
def test_what_does_not_belong_there_is_named(tmp_path, name, said):
    write_image(market_tree(tmp_path) / name)
    with pytest.raises(DataError, match=said):
        Market(tmp_path)


def test_a_folder_that_is_missing_is_named(tmp_path):
    for path in (market_tree(tmp_path) / "query").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="query has no image"):
        _ = Market(tmp_path).test
    (tmp_path / "query").rmdir()
    with pytest.raises(DataError, match="there is no folder .*query, where images such as 0002_c1s1_000451_03.jpg"):
        Market(tmp_path)
    with pytest.raises(DataError, match="It looks like another data set: DATA.NAME market"):
        open_benchmark("llcm", tmp_path)
    (tmp_path / "query").mkdir(), (tmp_path / "bounding_box_test").rename(tmp_path / "elsewhere")
    (tmp_path / "query").rmdir()
    with pytest.raises(DataError, match="has neither query nor bounding_box_test"):
        _ = Market(tmp_path).test


# One modality


@pytest.mark.parametrize("sampler", ["replacement", "distinct", "blind_chunks"])
def test_a_batch_of_one_modality_has_an_empty_stream_of_the_other(tmp_path, sampler):
    records = Market(market_tree(tmp_path)).train
    cfg = load_config("configs/quickstart_base.yaml", [
        "DATA.NAME", "market", "SOLVER.SAMPLER", sampler, "SOLVER.IDENTITIES", "2", "SOLVER.IMAGES", "2",
    ])
    batch = train_batches(cfg, records)[0, 0]
    sizes = {stream.kind.infrared: len(stream.labels) for stream in batch.streams}
    assert sizes == {False: 4, True: 0} and len(batch) == 4


@pytest.mark.parametrize("method", ["quickstart_base", "quickstart_agw"])
def test_a_method_that_can_is_trained_and_tested_on_one_modality(tmp_path, thin, method):
    data = market_tree(tmp_path / "data")
    words = [*SMALL, "DATA.NAME", "market", "DATA.ROOT", data, "OUTPUT", tmp_path / "run"]
    run("train.py", "--config", f"configs/{method}.yaml", *words, "SOLVER.VALIDATION_IDS", "1", drawn=False)
    done = run("test.py", "--checkpoint", tmp_path / "run", drawn=False)
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {r["protocol"] for r in saved["results"]} == {"market/vis-to-vis"} and "market/vis-to-vis" in done.stdout
    assert not done.stderr
    assert saved["results"][0]["trials"][0]["valid_queries"] == 4
    weights = torch.load(tmp_path / "run" / "last.pth", weights_only=False)["model"]
    assert all(x.isfinite().all() for x in weights.values())
    start = build_network(load_config("configs/quickstart_cmfn.yaml", [
        "MODEL.PRETRAINED", str(tmp_path / "run" / "last.pth"), "DATA.NAME", "synthetic",
    ]), classes=3).state_dict()
    for name in ("visible_stem.0.weight", "infrared_stem.0.weight", "stages.2.0.conv1.weight"):  # CMFN starts from it
        theirs = f"backbone.{name}".replace("infrared", "visible")
        theirs = theirs if theirs in weights else theirs.replace("stages.2.", "stages.2.blocks.")
        assert torch.equal(start[f"backbone.{name}"], weights[theirs]), name
    pictures = ["scripts/visualize.py", tmp_path / "run", "--identities", "1", "--parts"]
    run(*pictures, "ranking", "attention", drawn=False)
    done = run(*pictures, "map", check=False)
    assert "a map shows both modalities, and market has one: --parts ranking attention leaves it out" in done.stderr


@pytest.mark.parametrize("method", ["quickstart_cmfn", "quickstart_caj", "quickstart_deen", "quickstart_dns",
                                    "quickstart_mcja", "quickstart_mpanet", "quickstart_mscmnet", "quickstart_pmt",
                                    "quickstart_mclnet", "quickstart_sefel"])
def test_a_method_that_needs_both_is_refused_in_one_line(tmp_path, method):
    cfg = load_config(f"configs/{method}.yaml", ["DATA.NAME", "market"])
    said = f"market has visible training images alone, and {cfg.MODEL.NAME} learns from both modalities; of one alone"
    with pytest.raises(ConfigError, match=said):
        train_batches(cfg, Market(market_tree(tmp_path)).train)


def test_what_else_needs_both_is_refused(tmp_path):
    records = Market(market_tree(tmp_path)).train
    cfg = load_config("configs/market_base.yaml", ["SOLVER.SAMPLER", "chunks"])
    with pytest.raises(ConfigError, match="SOLVER.SAMPLER is chunks, which pairs the modalities"):
        train_batches(cfg, records)
    cfg = load_config("configs/market_base.yaml", ["SOLVER.IDENTITIES", "2"])
    with pytest.raises(ConfigError, match="alone, on which one process trains, not 2"):
        train_batches(cfg, records, Ranks(0, 2, 0))


def test_a_stem_without_images_keeps_its_weights_and_statistics(tmp_path, thin):
    cfg = load_config("configs/quickstart_base.yaml", ["DATA.NAME", "market", "SOLVER.IDENTITIES", "2"])
    model = build_network(cfg, 3)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    batch = train_batches(cfg, Market(market_tree(tmp_path)).train)[0, 0]
    update = Update(cfg, model.train(), build_loss(cfg), torch.device("cpu"))
    update.set_rate(1)
    update([batch], 0, 0, False)
    changed = {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    assert not [name for name in changed if "infrared_stem" in name] and [n for n in changed if "visible_stem" in n]


def test_a_sampler_of_two_modalities_draws_as_before():
    from data.records import Record
    from data.sampler import WithReplacement

    records = [Record(f"/{i}/{j}/{n}", i, 1, n) for i in range(3) for j in range(2) for n in (False, True)]
    draw = WithReplacement(records, 2, 2, seed=0).batch(0, 0)
    generator = np.random.default_rng((0, 0, 0))
    chosen = generator.choice(3, 2, replace=False)
    expected = [
        generator.choice([row for row, x in enumerate(records) if (x.identity, x.infrared) == (i, n)], 2).tolist()
        for n in (False, True) for i in chosen
    ]
    assert [*draw.visible.rows, *draw.infrared.rows] == [row for rows in expected for row in rows]
