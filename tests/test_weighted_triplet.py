"""AGW's and CAJ's triplets: the authors' values and gradients in float64, and what can be computed by hand."""

import json
import math

import numpy as np
import pytest
import torch

from losses.squared_difference import SquaredDifferenceLoss
from losses.weighted_triplet import WeightedTripletLoss, weighted_distances

LOSSES = {
    "wrt": WeightedTripletLoss(),
    "squared_difference": SquaredDifferenceLoss(),
    "squared_difference_alpha2_gamma3": SquaredDifferenceLoss(sharpness=2, scale=3),
    "adaptive_alpha2_gamma3_square0": SquaredDifferenceLoss(sharpness=2, scale=3, square=False),
}
SCALES = ("0.05", "0.2", "0.6", "1.0", "3.0")


def reference(data_dir, scale):
    """(features, labels, expected) by the reference's rule."""
    case = json.loads((data_dir / "baseline_losses.json").read_text())["shuffled"]
    labels, r = np.array(case["labels"]), np.random.RandomState(case["seed"])
    own, centres = r.standard_normal((len(labels), 64)), r.standard_normal((100, 64))
    features = float(scale) * (own + 1.5 * centres[labels])
    return torch.tensor(features, requires_grad=True), torch.tensor(labels), case["terms"][scale]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_the_authors(data_dir, name, scale):
    features, labels, expected = reference(data_dir, scale)
    value = LOSSES[name](features, labels, None)
    value.backward()
    expected = expected[name]
    assert value.item() == pytest.approx(expected["value"], rel=1e-6, abs=1e-12)
    assert features.grad.norm().item() == pytest.approx(expected["gradient_norm"], rel=1e-5, abs=1e-12)
    assert features.grad[0, :4].tolist() == pytest.approx(expected["gradient_row0_first4"], rel=1e-4, abs=1e-10)


@pytest.mark.parametrize("scale", SCALES)
def test_both_sides_are_those_of_the_authors(data_dir, scale):
    features, labels, expected = reference(data_dir, scale)
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


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
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
