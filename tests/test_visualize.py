"""Images of a run: the ranking shown is the one scored, the maps are what they are called, every network has some."""

import dataclasses
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import Started
from thin import wide
from torch.nn import functional as F
from trees import llcm_tree, regdb_tree

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import visualize

import test as evaluation
from assembly import (
    attention,
    embedding_map,
    ranking_sheets,
)
from configs.load import load_config
from data.dataset import open_benchmark
from data.synthetic import write_synthetic
from models.build import build_model
from models.parts.csc_cma import SpatialAttention
from models.parts.layers import WindowAttention
from utils.evaluation.evaluator import evaluate_protocol
from utils.reporting.sheets import RIGHT, WRONG, Cell, SheetError, font_of, ranking_sheet, save, sheet
from utils.stop import fail_clearly
from utils.training.checkpoint import save_checkpoint
from utils.training.distributed import Ranks

pytestmark = pytest.mark.usefixtures("thin")
NETWORKS = ("cmfn", "deen", "agw", "caj")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_synthetic(
        root / "synthetic", seed=3, train_identities=2, test_identities=4, images_per_camera=2, height=64, width=32
    )
    regdb_tree(root / "regdb")
    llcm_tree(root / "llcm")
    return root


def tiny(name, data_set, root, stages=3):
    return load_config("configs/quickstart_cmfn.yaml", [
        "MODEL.NAME", name, "MODEL.STAGES", str(stages), "DATA.NAME", data_set, "DATA.ROOT", str(root),
        "DATA.HEIGHT", "32", "DATA.WIDTH", "16", "DATA.WORKERS", "0", "DEVICE", "cpu", "OUTPUT", "unused",
    ])


def untrained_run(folder, cfg):
    """A run's folder with a checkpoint of random weights."""
    torch.manual_seed(cfg.SEED + 1)
    model = build_model(cfg.MODEL, classes=5)
    state = {"model": model.state_dict(), "config": cfg.dump(), "identities": [*range(5)], "epoch": 1, "step": 0}
    folder.mkdir()
    save_checkpoint(folder / "last.pth", state)
    return folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, arguments)])
    visualize.main()


# Ranking sheets


@pytest.mark.parametrize("rerank", ["none", "k_reciprocal"])
@pytest.mark.parametrize("name", ["synthetic", "regdb", "llcm"])
def test_the_images_shown_are_the_ranking_that_is_scored(data, name, rerank):
    benchmark = open_benchmark(name, data / name)
    identities = [record.identity for record in benchmark.test]
    features = F.normalize(torch.randn(len(identities), 6), dim=1)
    for protocol in map(benchmark.protocol, benchmark.available_protocols()):
        first = dataclasses.replace(protocol, trials=protocol.trials[:1])
        arguments = {"flip": False, "weighting": "equal", "rerank": rerank, "per_query": True}
        trial = evaluate_protocol(features, identities, first, **arguments)["trials"][0]
        queries = trial["queries"]
        found = ranking_sheets.first_images(features, first, queries["rows"], rerank, top=10**6)
        at_first = 0
        for query, ap in zip(queries["rows"], queries["ap"]):
            ignored = [r for r in first.trials[0].gallery if protocol.gallery_group[r] == protocol.query_ignores[query]]
            assert sorted(found[query]) == sorted({*first.trials[0].gallery} - {*ignored})
            right = np.array([identities[row] == identities[query] for row in found[query]])
            at_first += right[0]
            assert ap == pytest.approx((right.cumsum() / np.arange(1, len(right) + 1))[right].mean())
            few = ranking_sheets.first_images(features, first, [query], rerank, top=2)
            assert few == {query: found[query][:2]}
        assert trial["rank1"] == pytest.approx(at_first / len(queries["rows"]))


def test_camera_3_is_not_shown_what_camera_2_saw(data):
    benchmark = open_benchmark("synthetic", data / "synthetic")
    protocol = benchmark.protocol("synthetic/all/multi-shot/random")
    protocol = dataclasses.replace(protocol, trials=protocol.trials[:1])
    found = ranking_sheets.first_images(
        torch.randn(len(benchmark.test), 4), protocol, protocol.trials[0].query, "none", top=1000
    )
    cameras = {query: {benchmark.test[row].camera for row in rows} for query, rows in found.items()}
    for query, seen in cameras.items():
        assert seen == ({1, 4, 5} if benchmark.test[query].camera == 3 else {1, 2, 4, 5})


def test_of_equal_queries_the_first_is_the_best_and_it_is_said_how_many_there_are():
    chosen = ranking_sheets.chosen_queries([0.5, 1.0, 0.25, 1.0, 0.75], random=2, seed=0)
    assert chosen[:2] == [("best query,\nfirst of 2", 1), ("worst query", 2)]
    assert len({i for _, i in chosen}) == 4 and chosen == ranking_sheets.chosen_queries([0.5, 1, 0.25, 1, 0.75], 2, 0)
    assert {i for _, i in ranking_sheets.chosen_queries([0.5, 1.0, 0.25, 1.0, 0.75], 100, 7)} == {0, 1, 2, 3, 4}


def test_right_and_wrong_differ_without_colour():
    image = Image.new("RGB", (8, 16), "black")
    frames = [sheet([("", [Cell(image, frame=frame)])], height=64, width=32) for frame in (RIGHT, WRONG)]
    for canvas, frame in zip(frames, (RIGHT, WRONG)):
        assert tuple(bytes.fromhex(frame[1:])) in {colour for _, colour in canvas.getcolors(10**4)}
    tick, cross = (np.asarray(canvas.convert("L")) > 220 for canvas in frames)  # the strokes are white
    assert (tick != cross).sum() > 10


def test_captions_show_names_of_other_alphabets_and_fit():
    missing = bytes(font_of(40).getmask("\uffff"))
    for letter in "éłßŞЖλя→–":
        assert bytes(font_of(40).getmask(letter)) != missing, letter
    caption = "Éloïse Łukasiewicz-Жуковский\n2 → 3"
    drawn = np.asarray(sheet([(caption, [Cell(Image.new("RGB", (64, 128), "white"), caption)])], title=caption))
    margins = np.concatenate([drawn[:, :5], drawn[:, -5:]], axis=1), np.concatenate([drawn[:5], drawn[-5:]])
    assert drawn.min() < 50 and all((margin == 255).all() for margin in margins)


def test_a_sheet_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SheetError, match=r"file/sheet\.png cannot be written"):
        save(Image.new("RGB", (2, 2)), tmp_path / "file" / "sheet.png")
    with pytest.raises(SheetError, match="a row at least"):
        ranking_sheet([])


# Attention


def test_attention_received_in_one_window_is_the_mean_of_the_softmax():
    window = WindowAttention(8, heads=2, window=4, shift=0)
    x = torch.randn(3, 4, 4, 8)
    q, k, _ = window.qkv(x.flatten(1, 2)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)  # (B, heads, 16, 4)
    bias = window.bias_table[window.bias_index].permute(2, 0, 1)
    weight = (q @ k.transpose(-2, -1) / 2 + bias).softmax(dim=-1)
    expected = 16 * weight.mean(dim=(1, 2)).unflatten(1, (4, 4))  # an even share is 1/16
    torch.testing.assert_close(attention.attention_received(window, x), expected)


@pytest.mark.parametrize("size", [(18, 9), (8, 4), (3, 2)])
def test_even_attention_is_one_everywhere_however_the_windows_are_filled(size):
    window = WindowAttention(16)
    torch.nn.init.zeros_(window.bias_table)
    torch.nn.init.zeros_(window.qkv.weight[:32].detach())
    torch.testing.assert_close(attention.attention_received(window, torch.randn(2, *size, 16)), torch.ones(2, *size))


def test_attention_in_full_windows_is_one_on_average():
    received = attention.attention_received(WindowAttention(16), 5 * torch.randn(2, 16, 8, 16))
    torch.testing.assert_close(received.mean(dim=(1, 2)), torch.ones(2))
    assert received.std() > 0.01


def test_the_gate_of_spatial_attention():
    spatial, x = SpatialAttention(), torch.randn(2, 5, 6, 4)
    summary = torch.stack([x.amax(dim=1), x.mean(dim=1)], dim=1)
    torch.testing.assert_close(attention.gate(spatial, x, spatial(x)), spatial.conv(summary)[:, 0].sigmoid())


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_every_network(name):
    cfg = tiny(name, "synthetic", "unused", stages=4)
    with wide():  # of few channels, a map is zero everywhere by chance
        model = build_model(cfg.MODEL, classes=5).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    images = torch.randn(2, 3, 64, 32)
    before = model.embed(images, infrared=True)
    maps, _ = attention.attention_maps(model, images, infrared=True)
    assert [*maps] == {
        "cmfn": [*(f"HCE {i}" for i in (1, 2, 3, 4)), "window attention 1", "spatial attention 1",
                 "window attention 2", "spatial attention 2", "Grad-CAM"],
        "deen": ["DEE branch 1", "DEE branch 2", "Grad-CAM"],
        "agw": [*(f"non-local {i}" for i in (1, 2, 3, 4)), "Grad-CAM"],
        "caj": [*(f"non-local {i}" for i in (1, 2, 3, 4)), "Grad-CAM"],
    }[name]
    for title, values in maps.items():
        assert values.ndim == 3 and len(values) == 2 and values.isfinite().all() and not values.requires_grad, title
        assert (values >= 0).all() and (values.amax(dim=(1, 2)) > values.amin(dim=(1, 2))).any(), title
    alone, _ = attention.attention_maps(model, images[1:], infrared=True)
    for title, values in alone.items():
        torch.testing.assert_close(values[0], maps[title][1], rtol=1e-3, atol=1e-5, msg=title)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model.embed(images, infrared=True), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_grad_cam_before_average_pooling(name):
    """There the logit is linear in the last map, so its gradient can be written down."""
    model = build_model(tiny(name, "synthetic", "unused").MODEL, classes=5).eval()
    head, x = model.head, torch.randn(model.views, 2, model.backbone.channels[-1], 4, 2)
    cam, predicted = attention.grad_cam(model.last_map()[1], x.flatten(0, 1))
    logits = head.classifier(head.neck(x.mean(dim=(3, 4)).mean(dim=0)))  # linear: of the views' mean
    assert predicted.tolist() == logits.argmax(dim=1).tolist()
    slope = head.classifier.weight[predicted] * head.neck.weight / (head.neck.running_var + head.neck.eps).sqrt()
    expected = torch.einsum("bd,vbdhw->vbhw", slope, x).relu().mean(dim=0) / (4 * 2) / model.views
    torch.testing.assert_close(cam, expected.detach())
    assert expected.gt(0).any() and not (cam.requires_grad or any(p.grad is not None for p in model.parameters()))


def test_an_overlay_is_purple_at_the_least_and_yellow_at_the_greatest_value():
    values = torch.tensor([[0.25, 0.25], [0.25, 0.5]])
    shown = np.asarray(attention.overlay(Image.new("RGB", (20, 40)), values)).astype(int)
    (low_red, _, low_blue), (high_red, high_green, high_blue) = shown[0, 0], shown[-1, -1]
    assert low_blue > low_red and high_red > high_blue and high_green > high_blue
    flat = np.asarray(attention.overlay(Image.new("RGB", (20, 40)), torch.ones(2, 2)))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1


def test_the_caption_of_a_map_says_where_it_is_zero_and_whom_grad_cam_is_about(data, monkeypatch):
    records = open_benchmark("synthetic", data / "synthetic").test
    pair = [next(record for record in records if record.infrared == infrared) for infrared in (False, True)]
    rows = []
    monkeypatch.setattr(attention, "sheet", lambda r, *_, **__: rows.extend(r))
    cam = torch.tensor([[[0.25, 1.5]]])
    monkeypatch.setattr(attention, "attention_maps", lambda model, images, infrared: (
        {"HCE 1": cam, attention.GRAD_CAM: cam * infrared}, torch.tensor([2 - infrared])
    ))
    attention.attention_picture(None, [pair], [4, 7, 9], 32, 16, torch.device("cpu"), "title")
    (_, cells), = rows
    assert [cell.caption for cell in cells] == [
        "VIS | IR", "0.25-1.5 | 0.25-1.5", "zero everywhere | 0.25-1.5\ntraining identity 9 | 7"
    ]


# Embedding map


def test_found_across_counts_infrared_images_whose_nearest_visible_one_is_right():
    features = F.normalize(torch.tensor([[1.0, 0], [0, 1], [1, 0.1], [1, 0.2], [0.1, 1]]), dim=1)
    identities, infrared = torch.tensor([7, 8, 7, 8, 8]), torch.tensor([False, False, True, True, True])
    assert embedding_map.found_across(features, identities, infrared) == pytest.approx(2 / 3)


def test_without_scikit_learn_the_map_is_refused_before_anything_is_computed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(embedding_map.MissingLibrary, match="the embedding map needs scikit-learn"):
        run(monkeypatch, tmp_path / "nowhere")


def test_without_matplotlib_one_sentence_says_what_to_install(tmp_path):
    process = Started(tmp_path / "out", "scripts/visualize.py", tmp_path, "--parts", "ranking", without="matplotlib")
    code, _, error = process.finished()
    assert code == 1
    assert re.fullmatch(r"error: matplotlib\S* is not installed: pip install -r requirements.txt\n", error)


def test_weights_that_cannot_be_had_give_a_random_network_and_say_so(capsys):
    cfg = tiny("deen", "synthetic", "unused")
    cfg.defrost()
    cfg.MODEL.PRETRAINED = "nowhere.pth"
    model, weights = visualize.network_before_training(cfg, classes=5)
    assert weights == "random weights" and "nowhere.pth" in capsys.readouterr().out
    torch.manual_seed(cfg.SEED)
    cfg.MODEL.PRETRAINED = "none"
    expected = build_model(cfg.MODEL, classes=5).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


# The program


def test_compressed_embeddings_are_shown_as_they_are_scored(data, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    folder = untrained_run(tmp_path / "run", tiny("deen", "synthetic", data / "synthetic"))
    rankings, maps = [], []
    monkeypatch.setattr(visualize, "save", lambda *_: None)
    monkeypatch.setattr(visualize, "ranking_picture", lambda *args, **options: rankings.append((args, options)))
    monkeypatch.setattr(visualize, "map_picture", lambda panels, *_: maps.append(panels))
    run(monkeypatch, folder, "EMBEDDING.DIM", 3, "--parts", "ranking", "map")
    run(monkeypatch, folder, "EMBEDDING.DIM", 3, "--parts", "map")
    ((features, records, protocol), options), = rankings
    assert features.shape == (len(records), 3) and options["weighting"] == "equal, PCA 3"
    (_, before), (heading, after) = maps[0]
    assert heading.endswith("weighting equal, PCA 3") and after.shape[1] == 3 < before.shape[1]
    torch.testing.assert_close(maps[1][1][1], after)
    model, cfg, checkpoint = evaluation.load_run(folder, ["EMBEDDING.DIM", "3"], complete=False)
    benchmark = open_benchmark("synthetic", cfg.DATA.ROOT)
    device = torch.device("cpu")
    scored = evaluation.evaluate(model, benchmark, [protocol], cfg, checkpoint, device, Ranks(), per_query=False)
    identities = [record.identity for record in records]
    shown = evaluate_protocol(features, identities, protocol, weighting="equal, PCA 3", flip=cfg.TEST.FLIP)
    assert shown == scored["results"][0]


@pytest.mark.parametrize("name", ["regdb", "llcm"])
def test_every_protocol_of_every_data_set_gets_a_ranking(name, data, tmp_path, monkeypatch):
    folder = untrained_run(tmp_path / "run", tiny("deen", name, data / name))
    shown = []
    monkeypatch.setattr(ranking_sheets, "ranking_sheet", lambda *a: shown.append(a) or ranking_sheet(*a))
    for number, protocol in enumerate(open_benchmark(name, data / name).protocol_names()):
        output = tmp_path / str(number)
        run(monkeypatch, folder / "last.pth", "--parts", "ranking", "--protocol", protocol, "--output", output)
        rows, title, *_ = shown[-1]
        assert (output / "ranking.png").exists() and title.startswith(protocol) and len(rows) == 6
        for _, caption, results in rows:
            person = next(line for line in caption.splitlines() if line.startswith("identity"))
            for _, place, frame in results:
                assert (frame == RIGHT) == (person in place.splitlines()) and frame in (RIGHT, WRONG)


def test_wrong_arguments_end_with_a_sentence(data, tmp_path, monkeypatch, capsys):
    folder = untrained_run(tmp_path / "run", tiny("deen", "synthetic", data / "synthetic"))
    for arguments, message in (
        ([tmp_path / "nowhere"], "there is no checkpoint at"),
        ([folder, "--protocol", "synthetic/al"], "the nearest is"),
        ([folder, "TEST.WEIGHTINGS", '["pooled"]'], "deen has equal, neck"),
    ):
        monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, arguments), "--parts", "ranking"])
        with pytest.raises(SystemExit, match=message):
            fail_clearly(visualize.main, visualize.EXPECTED_ERRORS)
    with pytest.raises(SystemExit):
        run(monkeypatch, folder, "--top", 0)
    assert "0 is not a whole number of 1 at least" in capsys.readouterr().err
