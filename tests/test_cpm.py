import torch

from losses.cpm import CPMLoss


def reference(plain, branch, labels, infrared, margin):
    """docs/method.md section 7, one identity after the other."""
    people = labels.unique().tolist()

    def centre_of(features, modality):
        return {i: features[(labels == i) & (infrared == modality)].mean(dim=0) for i in people}

    a, b = centre_of(plain, False), centre_of(plain, True)
    a_, b_ = centre_of(branch, False), centre_of(branch, True)

    def n(x, i):
        return min(torch.dist(x[i], x[j]) for j in people if j != i)

    def hinge(negative, positive):
        return sum((positive(i) - negative(i) + margin).clamp(min=0) for i in people) / len(people)

    def half(x, x_, y):
        def gap(i):
            return torch.dist(y[i], x_[i])
        return (hinge(lambda i: torch.dist(x[i], x_[i]).detach(), gap)
                + (hinge(lambda i: n(x_, i), gap) + hinge(lambda i: n(x, i), gap)) / 2)

    return (half(a, a_, b) + half(b, b_, a)) / 2


def test_two_known_people():
    labels = torch.tensor([1, 2, 1, 2])
    infrared = torch.tensor([False, False, True, True])
    plain = torch.tensor([[0.0], [3.0], [4.0], [7.0]])
    # Of both people: D(b, a') = 3, D(a, a') = 1, n(a) = n(a') = 3: L_1 = (3 - 1 + 1) + (1 + 1) / 2 = 4
    #                 D(a, b') = 5, D(b, b') = 1, n(b) = n(b') = 3: L_2 = (5 - 1 + 1) + (3 + 3) / 2 = 8
    assert CPMLoss(margin=1)(plain, plain + 1, labels, infrared) == 6


def test_equals_the_loop_in_value_and_gradient():
    torch.manual_seed(0)
    labels = torch.tensor([3, 1, 1, 2, 3, 3, 1, 2, 1, 2])  # unsorted, 3 or 4 images each, in uneven modalities
    infrared = torch.tensor([0, 0, 1, 0, 0, 1, 0, 1, 0, 1]).bool()
    views = torch.randn(2, 10, 5, dtype=torch.float64, requires_grad=True)
    loss = CPMLoss(0.2)(*views, labels, infrared)
    expected = reference(*views, labels, infrared, 0.2)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(x, views)[0] for x in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_an_identity_without_infrared_images_is_left_out():
    torch.manual_seed(0)
    plain, branch = torch.randn(2, 9, 4)
    labels, infrared = torch.tensor([1, 1, 2, 2, 3, 3, 4, 4, 4]), torch.tensor([0, 1, 0, 1, 1, 0, 0, 0, 0]).bool()
    kept = labels < 4
    torch.testing.assert_close(
        CPMLoss(0.2)(plain, branch, labels, infrared),
        CPMLoss(0.2)(plain[kept], branch[kept], labels[kept], infrared[kept]),
    )


def test_one_modality_gives_zero():
    assert CPMLoss(0.2)(*torch.randn(2, 4, 3), torch.tensor([1, 1, 2, 2]), torch.ones(4, dtype=torch.bool)) == 0


def test_one_identity_has_no_neighbours():
    plain, infrared = torch.tensor([[0.0], [4.0]]), torch.tensor([False, True])
    # the hinges against D(a, a') and D(b, b') alone: (3 - 1 + 1 + 5 - 1 + 1) / 2
    assert CPMLoss(margin=1)(plain, plain + 1, torch.tensor([5, 5]), infrared) == 4
