import pytest
import torch

from losses.dcl import DCLLoss


def reference(features, labels):
    """One identity after the other."""
    own, other = [], []
    for label in labels.unique():
        centre = features[labels == label].mean(dim=0)
        own.append((features[labels == label] - centre).norm(dim=1).mean())
        negatives = (features[labels != label] - centre).norm(dim=1)
        other.append(negatives[negatives < negatives.mean()].mean())
    return sum(own) / sum(other)


def test_two_known_people():
    features = torch.tensor([[0.0], [4.0], [2.0], [8.0]])
    labels = torch.tensor([1, 2, 1, 2])
    # centres 1 and 6, own images 1 and 2 away; others at 3, 7 and at 6, 4: both mean 5, so that 3 and 4 count
    assert DCLLoss()(features, labels, labels > 1) == torch.tensor(3 / 7)


def test_a_single_other_image_counts():
    features, labels = torch.tensor([[0.0], [2.0], [6.0]]), torch.tensor([1, 1, 2])
    # own images 1 and 0 away; others: 5 alone from the first centre, 6 and 4 from the second, of which 4 counts
    assert DCLLoss()(features, labels, labels > 1) == torch.tensor(0.5 / 4.5)


def test_equals_the_loop_in_value_and_gradient():
    torch.manual_seed(0)
    labels = torch.tensor([3, 1, 1, 2, 3, 3, 1, 2, 1, 2, 2])  # unsorted, 3 or 4 images each
    features = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    loss = DCLLoss()(features, labels, labels < 2)
    expected = reference(features, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(x, features)[0] for x in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("factor", [0.01, 1, 100])
def test_the_ratio_has_no_scale(factor):
    torch.manual_seed(0)
    features, labels = torch.randn(12, 5), torch.arange(12) % 3
    value = DCLLoss()(features, labels, labels > 1)
    torch.testing.assert_close(DCLLoss()(factor * features, labels, labels > 1), value)


def test_one_identity_has_nothing_to_contrast():
    assert DCLLoss()(torch.randn(4, 3), torch.ones(4), torch.arange(4) > 1) == 0
