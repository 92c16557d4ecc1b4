import torch

from losses.triplet import TripletLoss


def reference(features, labels, margin):
    """One anchor after the other."""
    rows = []
    for anchor, label in zip(features, labels):
        farthest = max(torch.dist(anchor, x) for x, other in zip(features, labels) if other == label)
        nearest = min(torch.dist(anchor, x) for x, other in zip(features, labels) if other != label)
        rows.append((farthest - nearest + margin).clamp(min=0))
    return sum(rows) / len(rows)


def test_two_known_people():
    features = torch.tensor([[0.0], [2.0], [5.0], [6.0]])
    labels = torch.tensor([7, 7, 8, 8])
    # positives 2, 2, 1, 1; negatives 5, 3, 3, 4: only the second row falls short of a margin of 2, by 1
    assert TripletLoss(margin=2)(features, labels, torch.zeros(4, dtype=torch.bool)) == 0.25


def test_equals_the_loop_in_value_and_gradient():
    torch.manual_seed(0)
    labels = torch.tensor([3, 1, 1, 2, 3, 3, 1, 2, 1, 9])  # unsorted, 1 to 4 images each
    features = torch.randn(10, 5, dtype=torch.float64, requires_grad=True)
    loss = TripletLoss(0.3)(features, labels, labels < 2)
    expected = reference(features, labels, 0.3)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(x, features)[0] for x in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_an_only_image_is_its_own_positive():
    features, labels = torch.tensor([[0.0], [1.0]]), torch.tensor([1, 2])  # 0 - 1 + 3 for both
    assert TripletLoss(margin=3)(features, labels, labels > 1) == 2


def test_one_identity_has_no_negatives():
    assert TripletLoss(0.3)(torch.randn(4, 3), torch.ones(4), torch.arange(4) > 1) == 0
