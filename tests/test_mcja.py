"""MCJA against its authors' arithmetic: weights and images by rule, outputs, losses and gradients stored."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from batches import output_of
from reference import (
    DATA,
    baseline_state,
    check_after_backward,
    check_trained,
    image,
    nothing_drawn,
    recorded,
    relative,
    sample,
)
from scipy.optimize import isotonic_regression
from torch.nn import functional as F

from assembly.recipe import build_loss
from common.batch import Batch, Kind, Stream
from configs.load import load_config
from losses.cross_modality_retrieval import CrossModalityRetrievalLoss
from losses.soft_rank import soft_rank
from models.authors_checkpoint import AuthorsCheckpointError, authors_name, from_authors
from models.build import build_model
from models.mcja import MDA
from utils.training.optimizer import rate_at

KEYS = "keys_mcja.json"
ALONE = json.loads((DATA / "losses_mcja.json").read_text())


@pytest.fixture(scope="module")
def theirs():
    return baseline_state(KEYS, "backbone.layer4")


def empty(*overrides):
    cfg = load_config("configs/sysu_mcja.yaml", ["MODEL.PRETRAINED", "none", *overrides])
    with nothing_drawn():
        return build_model(cfg.MODEL, 395), cfg


def filled(theirs):
    model, cfg = empty()
    model.load_state_dict(from_authors(theirs, model))
    return model.double(), cfg


def wider(theirs):
    """Of 12 masks, by the rule for shapes of them."""
    from reference import weight

    changed = {
        key: torch.from_numpy(weight(key, shape_of(key, value.shape))).float()
        for key, value in theirs.items() if ".sc_conv." in key or ".ca_conv." in key
    }
    return theirs | changed


def shape_of(key, shape):
    return (*shape[:-1], 12) if ".ca_conv." in key else (12, *shape[1:])


def watch(model):
    stages = model.stages
    named = {"layer1": stages[0], "mda2_1": stages[1].mda[0], "mda2_2": stages[1].mda[1], "mda3_3": stages[2].mda[2],
             "layer4": stages[3]}
    return recorded(named)


@pytest.mark.parametrize("masks", [2, pytest.param(12, marks=pytest.mark.long)])
def test_evaluation_matches(theirs, masks, whole):
    model, _ = empty("MODEL.MCJA.MASKS", str(masks))
    model.load_state_dict(from_authors(theirs if masks == 2 else wider(theirs), model))
    stored, seen = np.load(DATA / "eval_mcja.npz"), watch(model.double().eval())
    with torch.inference_mode():
        for kind, block in {"noise": 1, "blocks": 24}.items() if whole else [("blocks", 24)]:
            images = image(1234, 2, 384, 192, block).float().double()
            for name, features in zip(("pooled", "neck"), model.features(images)):
                norm = features.norm(dim=1)
                assert relative(features / norm[:, None], stored[f"m{masks}/{kind}/{name}"]) < 1e-6
                assert relative(norm, stored[f"m{masks}/{kind}/{name}_norm"]) < 1e-6
        for name, value in seen.items():
            assert relative(sample(value, 256), stored[f"m{masks}/stage/{name}"]) < 1e-6, name
        assert len(seen) == 5
        embedded = model.float().embed(images.float(), infrared=True, flip=False)
        assert relative(embedded, stored[f"m{masks}/blocks/neck"]) < 1e-5
        assert torch.equal(embedded, model.embed(images.float(), infrared=False, flip=False))


def test_a_training_step_matches(theirs):
    model, cfg = filled(theirs)
    stored = np.load(DATA / "train_mcja.npz")
    images, labels = image(77, 18, 96, 48, 8).float().double(), torch.from_numpy(stored["labels"])
    infrared = torch.from_numpy(stored["infrared"])
    cuts = [0, *(infrared[1:] != infrared[:-1]).nonzero()[:, 0].add(1).tolist(), len(labels)]  # neighbours of one kind
    batch = Batch([Stream(images[a:b], labels[a:b], Kind(bool(infrared[a]))) for a, b in pairwise(cuts)])
    output = model.train()(batch)
    terms = build_loss(cfg)(output, epoch=0)
    assert torch.equal(output.infrared, infrared)
    for name, every in (("pooled", 8), ("neck", 8), ("logits", 1)):
        assert relative(getattr(output, name)[0].detach()[:, ::every], stored[name]) < 1e-6, name
    for name, term in {**terms, "total": sum(terms.values())}.items():
        assert term.item() == pytest.approx(float(stored[f"loss/{name}"]), rel=1e-6), name
    sum(terms.values()).backward()
    shifts = {key for key in stored if key.endswith(".sc_conv.bias")}  # by which no softmax changes
    assert len(shifts) == 1 and all(model.stages[2].mda[i].masks.bias.grad.abs().max() < 1e-12 for i in range(3))
    short = {key: stored[key] for key in {*stored} - shifts if not key.startswith("after_step/")}
    check_after_backward(short, json.loads((DATA / "train_mcja_gradient_norms.json").read_text()), model)
    state = {authors_name(key, model): value for key, value in model.state_dict().items()}
    for key in {*stored} - {*short} - shifts:
        assert relative(state[key.removeprefix("after_step/")][:64], stored[key]) < 1e-6, key


@pytest.mark.parametrize("case", ALONE["retrieval"], ids=lambda case: str(case["seed"]))
def test_retrieval_alone_matches_in_any_order_of_rows(case):
    labels, infrared = torch.tensor(case["labels"]), torch.tensor(case["infrared"], dtype=torch.bool)
    random = np.random.RandomState(case["seed"])
    rows, centers = random.standard_normal((8 * case["P"], 64)), random.standard_normal((100, 64))
    features = torch.from_numpy(case["scale"] * rows + 0.5 * centers[labels]).requires_grad_()
    value = CrossModalityRetrievalLoss(0.5)(features, labels, infrared)
    value.backward()
    assert value.item() == pytest.approx(case["value"], rel=1e-6)
    assert features.grad.norm().item() == pytest.approx(case.get("gradient_norm", 0.0), rel=1e-6)
    if "gradient_row0" in case:
        assert relative(features.grad[0, :len(case["gradient_row0"])], case["gradient_row0"]) < 1e-6
    order = torch.randperm(len(labels))
    again = CrossModalityRetrievalLoss(0.5)(features[order], labels[order], infrared[order])
    assert again.item() == pytest.approx(case["value"], rel=1e-6)


@pytest.mark.parametrize("case", ALONE["soft_rank"], ids=lambda case: str(case["seed"]))
def test_soft_ranks_alone_match(case):
    random = np.random.RandomState(case["seed"])
    values = torch.from_numpy(case["spread"] * random.rand(3, case["n"])).requires_grad_()
    upstream = torch.from_numpy(random.standard_normal((3, case["n"])))
    for spread in (torch.inf, case["spread"]):
        ranks = soft_rank(values, case["strength"], spread=spread)
        gradient, = torch.autograd.grad((ranks * upstream).sum(), values)
        assert relative(ranks.detach(), case["ranks"]) < 1e-6
        assert relative(gradient, case["gradient"]) < 1e-6


def test_the_importer_takes_the_whole_and_refuses_parts(theirs):
    model, _ = empty()
    assert {authors_name(key, model) for key in from_authors(theirs, model)} == {
        key for key in theirs if not key.startswith("backbone.fc.")  # ImageNet's classifier
    }
    check_trained(KEYS, model)
    without = {key: value for key, value in theirs.items() if key != "MDA_3.2.ca_conv.weight"}
    with pytest.raises(AuthorsCheckpointError, match="missing: MDA_3.2.ca_conv.weight"):
        from_authors(without, model)
    twelve, _ = empty("MODEL.MCJA.MASKS", "12")
    with pytest.raises(AuthorsCheckpointError, match=r"sc_conv.weight is \[2, 512, 1, 1\], not \[12, 512, 1, 1\]"):
        from_authors(theirs, twelve)


def test_an_attending_block_in_one_line():
    block = MDA(3, masks=2).double()
    x = torch.randn(4, 3, 5, 2, dtype=torch.float64)
    torch.testing.assert_close(block(x), x)  # at the start
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
    masks = torch.einsum("mc,bchw->bmhw", block.masks.weight[:, :, 0, 0], x) + block.masks.bias[:, None, None]
    masks = masks.flatten(2).softmax(dim=2).unflatten(2, (5, 2))
    mixed = torch.einsum("bmhw,bchw,cm->bc", masks, x, block.mix.weight[:, 0])
    gate = F.batch_norm(mixed, None, None, block.gate_norm.weight, block.gate_norm.bias, training=True).sigmoid()
    expected = F.batch_norm(x * gate[:, :, None, None], None, None, block.norm.weight, block.norm.bias, training=True)
    torch.testing.assert_close(block(x), x + expected)


@pytest.mark.parametrize("strength, spread", [(0.5, 1.0), (0.1, 1.0), (0.5, 20.0), (1e-3, 1.0), (100.0, 1.0)])
def test_soft_ranks_are_those_of_scipy_whatever_the_lists(strength, spread):
    random = np.random.default_rng(0)
    values, listed = spread * random.random((40, 9)), random.random((40, 9)) < 0.5
    ranks = soft_rank(torch.from_numpy(values), strength, torch.from_numpy(listed), spread)
    for row, chosen, found in zip(values, listed, ranks.numpy()):
        assert (found[~chosen] == 0).all()
        theta = row[chosen] / strength
        order = np.argsort(-theta)
        falling = theta[order] - np.arange(len(theta), 0, -1)
        nearest = isotonic_regression(falling, increasing=False).x if len(theta) else []
        expected = theta[order] - nearest
        np.testing.assert_allclose(found[chosen][order], expected, rtol=1e-9, atol=1e-9 * theta.max(initial=1))


def test_soft_ranks_become_ranks():
    values = torch.tensor([[0.3, 0.9, 0.1, 0.5]])
    torch.testing.assert_close(soft_rank(values, 1e-4), torch.tensor([[2.0, 4.0, 1.0, 3.0]]))


def test_equal_values_and_short_lists_have_finite_gradients():
    values = torch.zeros(3, 4, requires_grad=True)
    listed = torch.tensor([[True] * 4, [False, True, False, False], [False] * 4])
    ranks = soft_rank(values, 0.01, listed)
    ranks.square().sum().backward()
    assert ranks[0].tolist() == [2.5] * 4 and ranks[1].tolist() == [0, 1, 0, 0] and values.grad.isfinite().all()


def retrieval(labels, infrared):
    features = torch.eye(3, dtype=torch.float64)[torch.tensor(labels)].requires_grad_()
    value = CrossModalityRetrievalLoss(0.5)(features, torch.tensor(labels), torch.tensor(infrared, dtype=torch.bool))
    value.backward()
    assert features.grad.isfinite().all()
    return value.item()


def test_retrieval_of_any_mix_of_modalities():
    assert retrieval([0, 0, 1, 1], [0, 0, 0, 0]) == 0                # of one modality
    assert retrieval([0, 0, 0, 0], [0, 1, 0, 1]) == 0                # nobody else
    assert retrieval([0, 0, 1, 1], [0, 0, 1, 1]) == 0                # nobody again
    # Row 0 asks: its list is 0 and ½ away, θ 0 and 1, ranks 1 and 2, as wanted. The others have no list of two people.
    assert retrieval([0, 0, 1], [0, 1, 1]) == 0
    # Both infrared rows ask too: of [0, 1] and [0, 1].
    assert retrieval([0, 1, 0, 1], [0, 0, 1, 1]) == pytest.approx(0)
    # Row 0 again, its list 0, 0, ½, ½ away: ranks are θ - ½ + 2½ = 2, 2, 3, 3 where 1, 1, 4, 4 are wanted.
    assert retrieval([0, 0, 0, 1, 1], [0, 1, 1, 1, 1]) == pytest.approx(1)


def test_the_rate_falls_where_the_recipe_says():
    for name, rates in (("sysu", {0: 3.5e-4, 79: 3.5e-4, 80: 3.5e-5, 119: 3.5e-5, 120: 3.5e-6}),
                        ("regdb", {0: 3.5e-4, 299: 3.5e-4})):
        solver = load_config(f"configs/{name}_mcja.yaml").SOLVER
        assert {epoch: rate_at(solver.BASE_LR, epoch, solver) for epoch in rates} == pytest.approx(rates)


@pytest.mark.parametrize("infrared", [False, True])
def test_a_batch_of_one_modality_trains(infrared, thin):
    cfg = load_config("configs/quickstart_mcja.yaml")
    model = build_model(cfg.MODEL, classes=3).train()
    parts = [(torch.randn(0 if kind != infrared else 4, 3, 64, 32), Kind(kind)) for kind in (False, True)]
    batch = Batch([Stream(images, torch.arange(len(images)) % 2, kind) for images, kind in parts])
    output = model(batch)
    terms = build_loss(cfg)(output, epoch=0)
    assert terms["retrieval"].item() == 0 and output.infrared.tolist() == [infrared] * 4
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("masks, network", [("0", 0), ("2", 4)])
def test_without_masks_there_is_no_block(masks, network, thin):
    model = build_model(load_config("configs/quickstart_mcja.yaml", ["MODEL.MCJA.MASKS", masks]).MODEL, classes=3)
    assert sum(isinstance(module, MDA) for module in model.modules()) == network


def test_retrieval_reads_what_comes_after_the_neck():
    labels, infrared = torch.tensor([0, 1, 0, 1]), torch.tensor([False, False, True, True])
    neck = torch.randn(1, 4, 8, requires_grad=True)
    output = output_of(labels, infrared, pooled=neck.detach(), neck=neck, logits=torch.randn(1, 4, 2))
    build_loss(load_config("configs/quickstart_mcja.yaml"))(output, epoch=0)["retrieval"].backward()
    assert neck.grad.abs().sum() > 0
