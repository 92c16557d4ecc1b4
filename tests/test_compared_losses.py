"""The compared methods' losses: the authors' values and gradients in float64, and what can be computed by hand."""

import json
import math

import numpy as np
import pytest
import torch

from losses.cpm import CPMLoss
from losses.logit_divergence import LogitDivergenceLoss
from losses.orthogonal import OrthogonalLoss
from losses.squared_difference import SquaredDifferenceLoss
from losses.triplet import TripletLoss
from losses.weighted_triplet import WeightedTripletLoss, weighted_distances

LOSSES = {
    "wrt": WeightedTripletLoss(),
    "squared_difference": SquaredDifferenceLoss(),
    "squared_difference_alpha2_gamma3": SquaredDifferenceLoss(sharpness=2, scale=3),
    "adaptive_alpha2_gamma3_square0": SquaredDifferenceLoss(sharpness=2, scale=3, square=False),
}
SCALES = ("0.05", "0.2", "0.6", "1.0", "3.0")


# What the reference has of each set of features; the divergence has logits of its own.
SHUFFLED = {**LOSSES, "triplet_margin0.3": TripletLoss(0.3)}


def cpm(features, labels, _):
    plain, branch = features.unflatten(0, (2, -1))  # rows plain visible, plain infrared, branch visible and infrared
    return CPMLoss(0.2)(plain, branch, labels[:len(plain)], torch.arange(len(plain)) >= len(plain) // 2)


def orthogonal(features, labels, _):
    _, first, second = features.unflatten(0, (3, -1))
    return OrthogonalLoss()(first, second)


def reference(data_dir, group, scale):
    """(features, labels, expected) by the reference's rule."""
    case = json.loads((data_dir / "baseline_losses.json").read_text())[group]
    labels, r = np.array(case["labels"]), np.random.RandomState(case["seed"])
    own, centres = r.standard_normal((len(labels), 64)), r.standard_normal((100, 64))
    features = float(scale) * (own + 1.5 * centres[labels])
    return torch.tensor(features, requires_grad=True), torch.tensor(labels), case["terms"][scale]


def check(value, inputs, expected):
    value.backward()
    assert value.item() == pytest.approx(expected["value"], rel=1e-6, abs=1e-12)
    assert inputs.grad.norm().item() == pytest.approx(expected["gradient_norm"], rel=1e-6, abs=1e-12)
    assert inputs.grad[0, :4].tolist() == pytest.approx(expected["gradient_row0_first4"], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SHUFFLED)
def test_value_and_gradient_are_those_of_the_authors(data_dir, name, scale):
    features, labels, expected = reference(data_dir, "shuffled", scale)
    check(SHUFFLED[name](features, labels, None), features, expected[name])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("group, loss", [("cpm", cpm), ("orthogonal", orthogonal)])
def test_losses_between_views_are_those_of_the_authors(data_dir, group, loss, scale):
    features, labels, expected = reference(data_dir, group, scale)
    check(loss(features, labels, None), features, expected)


def test_the_divergence_is_that_of_the_authors(data_dir):
    expected = json.loads((data_dir / "baseline_losses.json").read_text())["kl"]["term"]
    visible, infrared = torch.tensor(2 * np.random.RandomState(19).standard_normal((2, 6, 10)))
    visible.requires_grad_()
    check(LogitDivergenceLoss()(visible, infrared), visible, expected)


@pytest.mark.parametrize("scale", SCALES)
def test_both_sides_are_those_of_the_authors(data_dir, scale):
    features, labels, expected = reference(data_dir, "shuffled", scale)
    positive, negative = weighted_distances(features, labels)
    assert positive.tolist() == pytest.approx(expected["wrt_positive_side"], rel=1e-6)
    assert negative.tolist() == pytest.approx(expected["wrt_negative_side"], rel=1e-6)


def test_three_known_points():
    """Rows 0 and 1 are one person, 3 apart; row 2 is another, 4 from the first and 5 from the second."""
    features, labels = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]), torch.tensor([7, 7, 8])
    positive, negative = weighted_distances(features.double(), labels)
    own = 3 / (1 + math.exp(-3))  # the row itself, at distance 0, has the weight e^-3
    assert positive.tolist() == pytest.approx([own, own, 0], abs=1e-5)
    assert negative.tolist()[:2] == pytest.approx([4, 5], rel=1e-3)
    assert negative[2].item() == pytest.approx((4 + 5 * math.exp(-1)) / (1 + math.exp(-1)), rel=1e-3)


@pytest.mark.parametrize("loss", [*LOSSES.values(), WeightedTripletLoss(softmax=True)], ids=[*LOSSES, "softmax"])
def test_finite_where_there_is_nothing_to_compare(loss):
    for features, labels in [
        (torch.randn(4, 8), torch.zeros(4)),               # one identity
        (torch.ones(4, 8), torch.tensor([0, 0, 1, 1])),    # all rows coincide
        (1e4 * torch.randn(4, 8), torch.tensor([0, 0, 1, 1])),
    ]:
        features.requires_grad_()
        value = loss(features, labels, None)
        value.backward()
        assert value.isfinite() and features.grad.isfinite().all()


def test_far_negatives_count_where_their_weights_are_a_softmax():
    """Two people 100 apart: the authors' 1e-6 outweighs e^-100, so their side is 0; a softmax's is 100."""
    features, labels = torch.tensor([[0.0], [100.0]], dtype=torch.float64), torch.tensor([7, 8])
    assert weighted_distances(features, labels)[1].max() < 1e-6
    assert weighted_distances(features, labels, softmax=True)[1].tolist() == pytest.approx([100, 100], rel=1e-5)
    assert WeightedTripletLoss()(features, labels, None).item() == pytest.approx(math.log(2))
    assert WeightedTripletLoss(softmax=True)(features, labels, None) < 1e-6


def test_the_divergence_of_two_rows_by_hand():
    """Temperature 3: logits 3 ln 3 and 0 are 3/4 and 1/4; both against even odds."""
    visible = torch.tensor([[0.0, 0.0], [3 * math.log(3), 0.0]], dtype=torch.float64, requires_grad=True)
    infrared = torch.tensor([[3 * math.log(3), 0.0], [3 * math.log(3), 0.0]], dtype=torch.float64, requires_grad=True)
    value = LogitDivergenceLoss()(visible, infrared)
    apart = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert value.item() == pytest.approx(9 * (apart + 0) / 2, abs=1e-5)
    value.backward()
    assert infrared.grad is None and visible.grad[0].abs().sum() > 0
