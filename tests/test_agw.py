"""AGW, CAJ and the two-stream baseline against their authors' arithmetic, and their switches."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from batches import batch_of
from reference import (
    DATA,
    baseline_state,
    check_after_backward,
    check_features,
    check_float32,
    check_stages,
    check_trained,
    image,
    nothing_drawn,
    recorded,
    relative,
    unwritten_state,
)
from thin import thin
from torch import nn

from assembly.recipe import build_loss
from configs.load import load_config
from models.authors_checkpoint import AuthorsCheckpointError, authors_name, from_authors
from models.build import build_model
from models.parts.head import GeM
from models.parts.non_local import SelfNonLocal

BASE = pytest.param("base", marks=pytest.mark.long)  # AGW without its blocks


def empty(method, *overrides, classes=395):
    cfg = load_config(f"configs/sysu_{method}.yaml", ["MODEL.PRETRAINED", "none", *overrides])
    return build_model(cfg.MODEL, classes), cfg


def authors_weights(method):
    state = baseline_state("keys_agw.json", "base_resnet.base.layer4")
    return {key: value for key, value in state.items() if method != "base" or not key.startswith("NL_")}


def filled(method, *overrides):
    with nothing_drawn():
        model, cfg = empty(method, *overrides)
    model.load_state_dict(from_authors({"net": authors_weights(method)}, model))
    return model.double(), cfg


def watch(model):
    """The maps that the reference has samples of; a stage's is that after its last non-local block."""
    stages = model.backbone.stages
    named = {"stem_visible": model.backbone.visible_stem, "stem_infrared": model.backbone.infrared_stem}
    named |= {f"layer{i}": stage for i, stage in enumerate(stages, start=1)}
    if hasattr(stages[1], "non_local"):
        named |= {f"layer2.{i}": stages[1].blocks[i] for i in (2, 3)} | {"nonlocal2_1": stages[1].non_local[0]}
        named |= {f"nonlocal3_{i + 1}": stages[2].non_local[i] for i in (0, 1)}
    return recorded(named)


@pytest.mark.parametrize("method", ["agw", BASE])
def test_evaluation_matches(method, whole):
    """By default noise and blocks in one modality each; the stored stages are those of visible blocks."""
    model, _ = filled(method)
    stored, seen = np.load(DATA / f"eval_{method}.npz"), watch(model.eval())
    pairs = product(("noise", "blocks"), ("infrared", "visible")) if whole else (
        ("noise", "infrared"), ("blocks", "visible")
    )
    with torch.inference_mode():
        for kind, modality in pairs:
            images = image(1234, 2, 288, 144, {"noise": 1, "blocks": 24}[kind]).float().double()
            last = model.encode(model.stem_map(images, infrared=modality == "infrared"))
            check_features(stored, f"{kind}/{modality}", *map(model.by_view, model.head.features(last)))
        model.backbone.infrared_stem(images)  # watched too
    names = check_stages(stored, seen)
    assert len(names) == (11 if method == "agw" else 6)
    check_float32(model, images, stored)


@pytest.mark.parametrize("method", [
    pytest.param("agw", marks=pytest.mark.long), "caj", BASE,  # whose losses and network hold those of the others
])
def test_training_matches(method):
    model, cfg = filled(method)
    stored, seen = np.load(DATA / f"train_{method}.npz"), watch(model.train())
    streams = 3 if method == "caj" else 2
    images = image(77, 8 * streams, 96, 48, 8).float().double()
    labels = [7, 7, 7, 7, 3, 3, 3, 3]
    output = model(batch_of(images.split(8), labels))
    if method != "base":
        assert len(check_stages(stored, seen)) == 11
        assert relative(output.pooled[0].detach(), stored["pooled"]) < 1e-6
        assert relative(output.logits[0].detach(), stored["logits"]) < 1e-6

    terms = build_loss(cfg)(output, epoch=0)
    total = sum(terms.values())
    name = {"agw": "wrt", "base": "triplet", "caj": "squared_difference"}[method]
    expected = {"id": "id", "triplet": name}
    for ours, theirs in expected.items():
        assert terms.pop(ours).item() == pytest.approx(float(stored[f"loss/{theirs}"]), rel=1e-6), ours
    assert not terms and total.item() == pytest.approx(float(stored["loss/total"]), rel=1e-6)
    if method == "caj":
        cfg = load_config("configs/sysu_caj.yaml", ["LOSS.DIVERGENCE_WEIGHT", "1.0", "LOSS.TRIPLET", "weighted"])
        others = build_loss(cfg)(output, epoch=0)
        assert others["divergence"].item() == pytest.approx(float(stored["loss/kl_weight_0"]), rel=1e-6)
        assert others["triplet"].item() == pytest.approx(float(stored["loss/wrt_same_features"]), rel=1e-6)

    total.backward()
    check_after_backward(stored, json.loads((DATA / f"train_{method}_gradient_norms.json").read_text()), model)


def test_the_importer_takes_the_whole_and_refuses_parts():
    with torch.device("meta"):  # by names and shapes
        model, base = empty("agw")[0], empty("base")[0]
    whole = unwritten_state("keys_agw.json")
    used = {e["key"] for e in json.loads((DATA / "keys_agw.json").read_text()) if e["used"]}
    assert {authors_name(key, model) for key in from_authors(whole, model)} == used
    check_trained("keys_agw.json", model)
    without = {key: value for key, value in whole.items() if key != "NL_3.2.W.0.bias"}
    with pytest.raises(AuthorsCheckpointError, match="missing: NL_3.2.W.0.bias"):
        from_authors(without, model)
    with pytest.raises(AuthorsCheckpointError, match="unexpected: NL_2.0.g.0.weight"):
        from_authors(whole, base)


def test_one_inner_channel_is_one_number_for_all_positions():
    """y_i = θ_i · mean_j(φ_j g_j): the matrix of affinities has rank 1 and need not be written."""
    torch.manual_seed(0)
    block = SelfNonLocal(8, inner=1).double().eval()
    nn.init.ones_(block.out[1].weight)
    x = torch.randn(2, 8, 6, 4, dtype=torch.float64)
    theta, phi, g = (f(x).flatten(2) for f in (block.theta, block.phi, block.g))  # (B, 1, M)
    affinity = theta.transpose(1, 2) @ phi / 24                                   # (B, M, M)
    by_matrix = (affinity @ g.transpose(1, 2)).transpose(1, 2).unflatten(2, (6, 4))
    torch.testing.assert_close(block(x), x + block.out(by_matrix))
    by_mean = (theta * (phi * g).mean(dim=2, keepdim=True)).unflatten(2, (6, 4))
    torch.testing.assert_close(block(x), x + block.out(by_mean))


def test_training_starts_from_the_plain_backbone():
    with thin():
        model, _ = empty("agw", "MODEL.BACKBONE", "resnet18", classes=5)
    x = torch.randn(2, 64, 16, 8)
    model.eval()
    for stage in model.backbone.stages:
        plain = getattr(stage, "blocks", stage)
        torch.testing.assert_close(stage(x), plain(x))
        x = plain(x)


@pytest.mark.parametrize("inner, width", [("one", 1), ("half", 256)])
def test_non_local_blocks_stand_where_the_authors_have_them(inner, width):
    with torch.device("meta"):
        model, base = empty("agw", "MODEL.NON_LOCAL", inner)[0], empty("base")[0]
    counts = [len(getattr(stage, "non_local", [])) for stage in model.backbone.stages]
    assert counts == [0, 2, 3, 0]
    assert model.backbone.stages[1].non_local[0].g.out_channels == width
    assert not any(hasattr(stage, "non_local") for stage in base.backbone.stages)


def test_gem_of_three_known_positions():
    x = torch.tensor([[[[1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0]]]])
    pooled = GeM(2, learned=False)(x)
    torch.testing.assert_close(pooled, torch.tensor([[12 ** (1 / 3), 1e-4]]))  # (1 + 8 + 27) / 3; a dead channel
    learned = GeM(2, learned=True)
    torch.testing.assert_close(learned(x), pooled)
    with torch.no_grad():
        learned.p[0] = 1.0
    torch.testing.assert_close(learned(x)[0, 0], torch.tensor(2.0))
    learned(x).sum().backward()
    assert learned.p.grad.isfinite().all() and learned.p.grad[0] != 0
    assert (GeM(1, learned=False)(torch.full((1, 1, 1, 2), 100.0, dtype=torch.float16)) - 100).abs() < 1e-3


@pytest.mark.parametrize("flip", [False, True])
def test_the_reported_feature_is_the_neck_and_has_length_one(flip):
    with thin():
        model, _ = empty("caj", "MODEL.BACKBONE", "resnet18", classes=5)
    images = torch.randn(3, 3, 64, 32)
    with torch.inference_mode():
        embedded = model.eval().embed(images, infrared=True, flip=flip)
        features = [model.features(x, infrared=True) for x in ([images, images.flip(-1)] if flip else [images])]
    assert next(iter(model.weightings)) == "neck"
    for weighting, which in (("neck", 1), ("pooled", 0)):
        own = embedded * model.column_scale(weighting)
        torch.testing.assert_close(own.norm(dim=1), torch.ones(3))
        mean = nn.functional.normalize(sum(f[which][0] for f in features), dim=1)
        torch.testing.assert_close(own @ own.T, mean @ mean.T)
