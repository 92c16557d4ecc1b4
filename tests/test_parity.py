"""The network and the total loss against the authors' arithmetic: weights and images by rule, outputs stored.

By default the longer network is trained, with all parts and gradients, and the shorter one embeds images of full size.
"""

import copy
import json

import numpy as np
import pytest
import torch
from batches import two_streams
from reference import DATA, WIDTH, empty_model, image, reference_model, relative, sample, watch_stages

from assembly.recipe import build_loss
from configs.load import load_config
from models.authors_checkpoint import authors_name

LABELS = [0, 0, 0, 0, 1, 1, 1, 1]  # of each modality


def both():
    """Each network in turn; the one of four stages, which takes several times as long, with --all."""
    variants = [pytest.param("sysu", marks=pytest.mark.long), "regdb"]
    return pytest.mark.parametrize("variant", variants, scope="module")


@pytest.fixture(scope="module")
def model(variant):
    """To be copied before it is trained or watched."""
    return reference_model(variant)


def is_before_mbue(stage):
    return stage.startswith(("stem", "hce", "mfa", "layer1", "layer2"))


def check_stages(stored, seen, tolerance_before_mbue, tolerance):
    stages = [key.removeprefix("stage/") for key in stored if key.startswith("stage/")]
    assert {"layer1", "hce2", "mfa2", "mbue"} <= set(stages)
    for stage in stages:
        assert tuple(seen[stage].shape) == tuple(stored[f"stage_shape/{stage}"]), stage
        limit = tolerance_before_mbue if is_before_mbue(stage) else tolerance
        assert relative(sample(seen[stage]), stored[f"stage/{stage}"]) < limit, stage


@both()
def test_evaluation_matches_in_double(model, variant, whole):
    stored = np.load(DATA / f"eval_{variant}.npz")
    model = copy.deepcopy(model).double().eval()
    seen = watch_stages(model)
    images = image(1234, 2, 384, WIDTH[variant], 24)
    with torch.inference_mode():
        for modality in ("infrared", "visible"):  # the stored stages are those of visible images
            number = 2 if whole or modality == "visible" else 1
            features = model.features(images[:number], infrared=modality == "infrared")
            for name, values in zip(("pooled", "neck"), features):
                expected = stored[f"{modality}/{name}"].reshape(len(values), 2, -1)[:, :number]  # (views, images, D)
                assert relative(values, expected) < 1e-7
    check_stages(stored, seen, 1e-12, 1e-7)


@both()
def test_training_matches_in_double(model, variant):
    model = copy.deepcopy(model).double().train()
    stored = np.load(DATA / f"train_{variant}.npz")
    seen = watch_stages(model)
    images = image(77, 16, 96, 48, 8)
    output = model(two_streams(images[:8], images[8:], LABELS))

    check_stages(stored, seen, 1e-12, 1e-7)
    assert relative(output.pooled.detach().flatten(0, 1), stored["pooled"]) < 1e-7
    assert relative(output.logits.detach().flatten(0, 1), stored["logits"]) < 1e-7
    assert output.infrared.tolist() == [False] * 8 + [True] * 8

    criterion = build_loss(load_config(f"configs/{variant}_cmfn.yaml"))
    for epoch in (1, 15, 25):
        terms = {name: term.item() for name, term in criterion(output, epoch).items()}
        terms["total"] = sum(terms.values())
        for name, value in terms.items():
            assert value == pytest.approx(float(stored[f"epoch{epoch}/{name}"]), rel=1e-7, abs=1e-12), (epoch, name)

    state = {authors_name(key, model): value for key, value in model.state_dict().items()}
    moved = [key.removeprefix("after_step/") for key in stored if key.startswith("after_step/")]
    assert "DEE.compression2.1.running_mean" in moved  # the compression that is called twice a step
    for key in moved:
        assert relative(state[key], stored[f"after_step/{key}"]) < 1e-7, key

    sum(criterion(output, 1).values()).backward()
    norms = json.loads((DATA / f"train_{variant}_gradient_norms.json").read_text())
    ours = {authors_name(key, model): p.grad.norm().item() for key, p in model.named_parameters() if p.requires_grad}
    assert set(ours) == set(norms)
    for key, norm in norms.items():
        if norm > 1e-8 * max(norms.values()):  # the others are rounding noise of an exact zero
            assert ours[key] == pytest.approx(norm, rel=1e-5), key


@pytest.mark.long
@both()
def test_single_precision_is_as_close_as_the_authors_own(model, variant):
    model = copy.deepcopy(model).float().eval()  # as it was read: no number of it needs more digits
    stored = np.load(DATA / f"eval_{variant}.npz")
    with torch.inference_mode():
        pooled, neck = model.features(image(1234, 2, 384, WIDTH[variant], 24).float(), infrared=False)
    assert relative(pooled.flatten(0, 1), stored["visible/pooled"]) < 1e-5
    assert relative(neck.flatten(0, 1), stored["visible/neck"]) < 1e-5

    model.train()
    stored = np.load(DATA / f"train_{variant}.npz")
    images = image(77, 16, 96, 48, 8).float()
    output = model(two_streams(images[:8], images[8:], LABELS))
    assert relative(output.pooled.detach().flatten(0, 1), stored["pooled"]) < 1e-3
    assert relative(output.logits.detach().flatten(0, 1), stored["logits"]) < 1e-3


@pytest.mark.parametrize("variant, count", [("sysu", 79_365_898), ("regdb", 25_509_386)])
def test_parameters_counted(variant, count):
    with torch.device("meta"):  # where no number is written
        assert sum(p.numel() for p in empty_model(variant).parameters()) == count
