"""What holds for every loss, the numbers of the authors' arithmetic, and the total."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from batches import output_of

from configs.load import load_config
from losses.build import build_total
from losses.cpm import CPMLoss
from losses.dcl import DCLLoss
from losses.labels import centers, one_row_each, pairwise_distances, same_identity
from losses.orthogonal import OrthogonalLoss
from losses.triplet import TripletLoss

DATA = Path(__file__).parent / "data"
SYSU_DCL = [[0, 0.1], [11, 0.01], [21, 0.0]]
REGDB_DCL = [[0, 0.1], [6, 0.01]]

# each as a function of views (3, B, D), labels (B,), infrared (B,)
LOSSES = {
    "triplet": lambda views, *rows: TripletLoss(0.3)(views[0], *rows),
    "cpm": lambda views, *rows: CPMLoss(0.2)(views[0], views[1], *rows),
    "orthogonal": lambda views, *rows: OrthogonalLoss()(views[1], views[2]),
    "dcl": lambda views, *rows: DCLLoss()(views[0], *rows),
    "total": lambda views, labels, infrared: sum(
        total(DCL_WEIGHTS=SYSU_DCL)(as_output(views, labels, infrared), epoch=0).values()),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def total(**options):
    """CMFN's total with the paper's weights, which are the defaults, but for these options of LOSS."""
    words = [str(word) for name, value in options.items() for word in (f"LOSS.{name}", value)]
    return build_total("cmfn", load_config(overrides=words).LOSS)


def as_output(views, labels, infrared):
    return SimpleNamespace(pooled=views, logits=views, labels=labels, infrared=infrared)  # rows in any order


def rows(labels, infrared):
    return torch.tensor(labels), torch.tensor(infrared).bool()


# --- parity ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, loss", [
    ("triplet_margin_0.3", lambda x, *rows: TripletLoss(0.3)(x.flatten(0, 1), *(row.repeat(3) for row in rows))),
    ("cpm_margin_0.2_plain_vs_branch1", lambda x, *rows: CPMLoss(0.2)(x[0], x[1], *rows)),
    ("dcl_plain", lambda x, *rows: DCLLoss()(x[0], *rows)),
])
def test_authors_value_and_gradient(name, loss):
    expected = json.loads((DATA / "losses.json").read_text())["losses"][name]
    labels = torch.arange(6).repeat_interleave(4).repeat(2)
    draw = np.random.RandomState(7)
    noise, identity = draw.standard_normal((144, 64)), draw.standard_normal((6, 64))
    views = torch.tensor(noise).unflatten(0, (3, 48)) + 0.3 * torch.tensor(identity)[labels]
    views.requires_grad_()

    value = loss(views, labels, torch.arange(48) >= 24)
    gradient, = torch.autograd.grad(value, views)
    assert value.item() == pytest.approx(expected["value"], rel=1e-9)
    assert gradient.norm().item() == pytest.approx(expected["grad_norm"], rel=1e-9)
    assert gradient[0, 0, :5].tolist() == pytest.approx(expected["grad_first_row"], rel=1e-9)


@pytest.mark.parametrize("epoch", [1, 15, 25])
@pytest.mark.parametrize("dataset, dcl_weights", [("sysu", SYSU_DCL), ("regdb", REGDB_DCL)])
def test_authors_total(dataset, dcl_weights, epoch):
    stored = np.load(DATA / f"train_{dataset}.npz")
    output = output_of(
        torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).repeat(2), torch.arange(16) >= 8,
        pooled=torch.tensor(stored["pooled"]).unflatten(0, (3, 16)),
        logits=torch.tensor(stored["logits"]).unflatten(0, (3, 16)),
    )
    terms = total(DCL_WEIGHTS=dcl_weights)(output, epoch)
    assert list(terms) == ["id", "triplet", "cpm", "orthogonal", "dcl"]
    for name, value in {**terms, "total": sum(terms.values())}.items():
        assert value.item() == pytest.approx(stored[f"epoch{epoch}/{name}"].item(), rel=1e-9, abs=1e-12), name


# --- every loss -----------------------------------------------------------------------------------------------------

@each_loss
def test_order_of_rows_makes_no_difference(loss):
    torch.manual_seed(0)
    views = torch.randn(3, 16, 5, dtype=torch.float64, requires_grad=True)
    labels, infrared = torch.arange(16) % 4, torch.arange(16) >= 8
    order = torch.randperm(16)
    value, shuffled = loss(views, labels, infrared), loss(views[:, order], labels[order], infrared[order])
    torch.testing.assert_close(shuffled, value)
    torch.testing.assert_close(torch.autograd.grad(shuffled, views), torch.autograd.grad(value, views))


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("labels, infrared", [
    ([4, 4, 4, 4], [0, 0, 1, 1]),              # one identity
    ([1, 2, 3, 1, 2, 3], [0, 0, 0, 1, 1, 1]),  # one image each of either modality
    ([1, 2, 3], [0, 1, 0]),                    # nobody in both
    ([1, 1, 2, 2, 2], [0, 1, 0, 0, 0]),        # one of two in both
    ([1, 1, 2, 2], [1, 1, 1, 1]),              # no visible image
    ([4], [0]),
])
def test_values_and_gradients_are_finite(loss, dtype, labels, infrared):
    torch.manual_seed(0)
    labels, infrared = rows(labels, infrared)
    distinct = torch.randn(3, len(labels), 5, dtype=dtype)
    for views in (
        distinct,
        distinct[:, :1].expand_as(distinct),     # all images coincide in a view
        distinct[:1].expand_as(distinct),        # all views of an image coincide
        torch.zeros_like(distinct),
        torch.cat([distinct[:, :-1], distinct[:, :1]], dim=1),  # two images coincide
    ):
        views = views.clone().requires_grad_()
        value = loss(views, labels, infrared)
        gradient, = torch.autograd.grad(value, views)
        assert value.ndim == 0 and value.isfinite() and gradient.isfinite().all()


@each_loss
def test_autocast_does_not_shorten_the_arithmetic(loss):
    torch.manual_seed(0)
    batch = torch.randn(3, 16, 5), torch.arange(16) % 4, torch.arange(16) >= 8
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*batch)
    assert value.dtype == torch.float32
    assert value == loss(*batch)


@each_loss
def test_nothing_is_fetched_from_the_device(loss):
    torch.manual_seed(0)
    batches = torch.randn(2, 3, 16, 5), (torch.arange(16) % 4).repeat(2, 1), (torch.arange(16) >= 8).repeat(2, 1)
    # vmap refuses whatever needs a value or a shape that depends on values: item, unique, boolean indexing, if
    torch.testing.assert_close(torch.vmap(loss)(*batches), torch.stack([loss(*batch) for batch in zip(*batches)]))


def test_helpers():
    labels = torch.tensor([7, 8, 7, 9, 8])
    assert one_row_each(labels).tolist() == [True, True, False, True, False]
    features = torch.tensor([[1.0], [2.0], [5.0], [6.0], [3.0]])
    assert centers(features, same_identity(labels)).flatten().tolist() == [3, 2.5, 3, 6, 2.5]
    assert centers(features, same_identity(labels) & (labels > 7)).flatten().tolist() == [0, 2.5, 0, 6, 2.5]


def test_small_distances_far_from_the_origin():
    points = 1000 + torch.arange(40.0)[:, None] / 64  # exact in float32
    expected = (torch.arange(40.0)[:, None] - torch.arange(40.0)).abs() / 64
    assert torch.equal(pairwise_distances(points, points), expected)


def test_orthogonal_of_two_known_images():
    first, second = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0, 1.0], [5.0, -2.0]])
    assert OrthogonalLoss()(first, second) == 0.5  # (5 - 2) / (3 views * 2 images)
    assert OrthogonalLoss()(torch.eye(2), torch.eye(2).flip(0)) == 0


# --- the total ------------------------------------------------------------------------------------------------------

def terms_of(views, epoch=0, **weights):
    labels, infrared = torch.arange(8) % 2, torch.arange(8) >= 4
    return total(**weights)(as_output(views, labels, infrared), epoch)


def test_one_view_has_no_branches_to_compare():
    torch.manual_seed(0)
    views = torch.randn(3, 8, 5)
    terms = terms_of(views[:1])
    assert list(terms) == ["id", "triplet", "dcl"]
    labels, infrared = torch.arange(8) % 2, torch.arange(8) >= 4
    assert terms["triplet"] == TripletLoss(0.3)(views[0], labels, infrared)
    assert terms["dcl"] == 0.1 * DCLLoss()(views[0], labels, infrared)


def test_two_views_are_refused():
    with pytest.raises(ValueError, match="1 view .* or 3 .* not 2"):
        terms_of(torch.randn(2, 8, 5))


def test_a_term_of_weight_zero_is_zero_and_not_computed(monkeypatch):
    def never(*_):
        raise AssertionError("computed")

    for loss in (TripletLoss, CPMLoss, OrthogonalLoss, DCLLoss):
        monkeypatch.setattr(loss, "forward", never)
    terms = terms_of(torch.randn(3, 8, 5), TRIPLET_WEIGHT=0, CPM_WEIGHT=0, ORTHOGONAL_WEIGHT=0, DCL_WEIGHTS=[[0, 0]])
    assert {name for name, value in terms.items() if value == 0} == {"triplet", "cpm", "orthogonal", "dcl"}


@pytest.mark.parametrize("dcl_weights, expected", [
    (SYSU_DCL, {0: 0.1, 10: 0.1, 11: 0.01, 20: 0.01, 21: 0, 150: 0}),
    (REGDB_DCL, {0: 0.1, 5: 0.1, 6: 0.01, 150: 0.01}),
])
def test_weight_of_dcl_by_epoch(dcl_weights, expected):
    torch.manual_seed(0)
    views = torch.randn(3, 8, 5)
    unweighted = terms_of(views, DCL_WEIGHTS=[[0, 1]])["dcl"]
    for epoch, weight in expected.items():
        torch.testing.assert_close(terms_of(views, epoch, DCL_WEIGHTS=dcl_weights)["dcl"], weight * unweighted)
