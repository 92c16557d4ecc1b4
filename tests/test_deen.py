"""DEEN against its authors' arithmetic: weights and images by rule, outputs, losses and gradients stored.

By default the longer network is trained, and the shorter one embeds images of full size.
"""

import json
from itertools import product

import numpy as np
import pytest
import torch
from batches import two_streams
from reference import (
    CLASSES,
    DATA,
    baseline_state,
    check_after_backward,
    check_features,
    check_float32,
    check_stages,
    check_trained,
    image,
    nothing_drawn,
    relative,
    unwritten_state,
)
from torch import nn

from assembly.recipe import build_loss
from configs.load import load_config
from losses.cpm import CPMLoss
from losses.orthogonal import OrthogonalLoss
from models.authors_checkpoint import AuthorsCheckpointError, authors_name, from_authors
from models.build import build_model

LAST_STAGE = {"sysu": "base_resnet.base.layer4", "regdb": "base_resnet.base.layer3"}


def both():
    """Each network in turn; the one of four stages, which takes several times as long, with --all."""
    variants = [pytest.param("sysu", marks=pytest.mark.long), "regdb"]
    return pytest.mark.parametrize("variant", variants)


def empty_deen(variant):
    cfg = load_config(f"configs/{variant}_deen.yaml", ["MODEL.PRETRAINED", "none", "MODEL.DEE.DROPOUT", "0.0"])
    return build_model(cfg.MODEL, CLASSES[variant]), cfg


def filled(variant):
    with nothing_drawn():
        model, cfg = empty_deen(variant)
    state = baseline_state(f"keys_deen_{variant}.json", LAST_STAGE[variant])
    model.load_state_dict(from_authors({"net": state}, model))
    return model.double(), cfg


def watch(model):
    seen, named = {}, {"stem_visible": model.backbone.visible_stem, "stem_infrared": model.backbone.infrared_stem}
    named["dee"] = model.dee
    named |= {f"layer{i}": stage for i, stage in enumerate(model.backbone.stages, start=1)}
    named |= {f"mfa{i}": mfa for i, mfa in enumerate(model.mfa, start=1)} | {"mfa1_channel": model.mfa[0].channel}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.detach().clone()))
        for name, module in named.items()
    ]
    return seen, hooks


@both()
def test_evaluation_matches(variant, whole):
    """By default noise and blocks in one modality each; the stored stages are those of visible blocks."""
    model, _ = filled(variant)
    stored = np.load(DATA / f"eval_deen_{variant}.npz")
    model.eval()
    pairs = product(("noise", "blocks"), ("infrared", "visible")) if whole else (
        ("noise", "infrared"), ("blocks", "visible")
    )
    with torch.inference_mode():
        for kind, modality in pairs:
            images = image(1234, 2, 384, 144, {"noise": 1, "blocks": 24}[kind]).float().double()
            seen, hooks = watch(model)
            last = model.encode(model.stem_map(images, infrared=modality == "infrared"))
            check_features(stored, f"{kind}/{modality}", *map(model.by_view, model.head.features(last)))
            for hook in hooks:
                hook.remove()
        stems = {"stem_infrared": model.backbone.infrared_stem(images)}
    assert {"layer1", "mfa1_channel", "mfa2", "dee"} <= check_stages(stored, seen | stems)
    check_float32(model, images, stored)


@both()
def test_training_matches(variant):
    model, cfg = filled(variant)
    model.train()
    stored = np.load(DATA / f"train_deen_{variant}.npz")
    seen, _ = watch(model)
    images = image(77, 16, 96, 48, 8).float().double()
    output = model(two_streams(images[:8], images[8:], [7, 7, 7, 7, 3, 3, 3, 3]))
    check_stages(stored, seen)
    assert relative(output.pooled.detach().flatten(0, 1), stored["pooled"]) < 1e-6
    assert relative(output.logits.detach().flatten(0, 1), stored["logits"]) < 1e-6

    terms = build_loss(cfg)(output, epoch=0)
    total = sum(terms.values())
    cpm, branches = CPMLoss(0.2), output.pooled[1:]
    rows = (output.labels, output.infrared)
    terms |= {f"cpm{i}_unweighted": cpm(output.pooled[0], branch, *rows) for i, branch in enumerate(branches, start=1)}
    terms["orthogonal_unweighted"] = OrthogonalLoss()(*branches)
    for name, term in {**terms, "total": total}.items():
        assert term.item() == pytest.approx(float(stored[f"loss/{name}"]), rel=1e-6), name

    total.backward()
    norms = json.loads((DATA / f"train_deen_{variant}_gradient_norms.json").read_text())
    check_after_backward(stored, norms, model)


@pytest.mark.parametrize("variant", LAST_STAGE)
def test_the_importer_takes_the_whole_and_refuses_parts(variant):
    with torch.device("meta"):  # by names and shapes
        model, _ = empty_deen(variant)
    whole = unwritten_state(f"keys_deen_{variant}.json")
    taken = {authors_name(key, model) for key in from_authors(whole, model)}
    used = {e["key"] for e in json.loads((DATA / f"keys_deen_{variant}.json").read_text()) if e["used"]}
    assert taken == used
    check_trained(f"keys_deen_{variant}.json", model)
    without = {key: value for key, value in whole.items() if key != "DEE.FC13.weight"}
    with pytest.raises(AuthorsCheckpointError, match="missing: DEE.FC13.weight"):
        from_authors(without, model)
    with pytest.raises(AuthorsCheckpointError, match="unexpected: DEE.FC14.weight"):
        from_authors(whole | {"DEE.FC14.weight": torch.zeros(1)}, model)


def test_branches_start_with_kaimings_normal_weights():
    torch.manual_seed(0)
    model, _ = empty_deen("regdb")
    for branch in (model.dee.branch1, model.dee.branch2):
        for conv in (*branch.dilated, branch.expand):
            fan_in = nn.init._calculate_correct_fan(conv.weight, "fan_in")
            assert conv.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
