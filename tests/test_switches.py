"""Each key by which code and paper part does what configs/defaults.py says, from the yaml file on."""

import numpy as np
import pytest
import torch
from batches import output_of
from torch import nn

from assembly.recipe import build_loss
from configs.load import load_config
from data.transforms import Pipeline
from losses.weighted_triplet import weighted_distances
from models.build import build_model

pytestmark = pytest.mark.usefixtures("thin")


def configured(method, *overrides):
    return load_config(f"configs/quickstart_{method}.yaml", overrides)


def network(method, *overrides):
    torch.manual_seed(0)
    return build_model(configured(method, *overrides).MODEL, classes=5)


def pipelines(options):
    """Of each view of a visible image, and of an infrared one."""
    return [Pipeline(view) for view in options.VISIBLE], [Pipeline(view) for view in options.INFRARED]


def test_grey_is_among_the_exchanges_only_where_it_is_asked_for():
    def seen(exchange):
        torch.manual_seed(0)
        (_, exchanged), _ = pipelines(configured("caj", "DATA.EXCHANGE", exchange).DATA)
        (_, last) = exchanged.steps[-1]
        values = set()
        for _ in range(100):
            image = np.tile(np.float32([1, 2, 4]), (2, 2, 1))
            last(image, image)
            assert (image == image[0, 0, 0]).all()
            values.add(round(float(image[0, 0, 0]), 4))
        return values

    grey = round(0.2989 + 2 * 0.5870 + 4 * 0.1140, 4)
    assert seen("channels") == {1, 2, 4} and seen("channels_and_grey") == {1, 2, 4, grey}
    data = configured("caj", "DATA.EXCHANGE", "none").DATA
    assert len(data.VISIBLE) == len(data.INFRARED) == 1
    assert not {"exchange", "adapt"} & {str(step) for step in (*data.VISIBLE[0], *data.INFRARED[0])}


@pytest.mark.parametrize("fill", [[0.4914, 0.4822, 0.4465], [0.485, 0.456, 0.406]])
def test_the_erased_part_has_the_fill(fill):
    torch.manual_seed(0)
    large = ["DATA.ERASING", "1.0", "DATA.ERASING_AREA", "[0.3, 0.5]"]
    (plain, _), _ = pipelines(configured("caj", *large, "DATA.ERASING_FILL", str(fill)).DATA)
    out = np.empty((64, 32, 3), np.float32)
    plain(np.full((64, 32, 3), 255, np.uint8), out)
    assert 0.25 < (out == np.float32(fill)).all(axis=2).mean() < 0.55


def loss_of(cfg, features, labels, logits=None, views=1):
    """The terms of one embedding a row; as many rows are infrared as there are visible ones in a view."""
    rows = len(features)
    logits = torch.zeros(rows, 3) if logits is None else logits
    infrared = torch.arange(rows) >= rows * views // (views + 1)
    output = output_of(torch.tensor(labels), infrared, views, pooled=features[None], logits=logits[None])
    return build_loss(cfg)(output, epoch=0)


def test_the_triplet_is_the_one_asked_for():
    features, labels = torch.tensor([[0.0], [1.0], [100.0], [101.0]]), [0, 0, 1, 1]

    def triplet(name):
        return loss_of(configured("agw", "LOSS.TRIPLET", name), features, labels)["triplet"].item()

    # The weight of a row's other image is 1 / (1 + 1/e); unshifted weights of negatives 100 apart vanish beside 1e-6.
    own = 1 / (1 + np.exp(-1))
    assert triplet("weighted") == pytest.approx(np.log1p(np.exp(own)), rel=1e-5)
    assert triplet("weighted_softmax") < 1e-6
    assert triplet("squared_difference") == pytest.approx(np.log1p(np.exp(own ** 2)), rel=1e-5)
    assert triplet("batch_hard") == 0


def test_coinciding_people_are_a_millionth_apart():
    _, negative = weighted_distances(torch.zeros(2, 3, dtype=torch.float64), torch.tensor([7, 8]))
    assert negative.tolist() == pytest.approx([1e-6, 1e-6], rel=1e-3, abs=0)


def test_the_divergence_pairs_plain_visible_rows_with_infrared_ones():
    near, far = torch.tensor([[3.0, 0, 0]]), torch.tensor([[0, 3.0, 0]])
    two = torch.cat([near, near, far, near])                      # two visible rows, two infrared ones
    three = torch.cat([near, near, far, far, near, near])         # plain, exchanged, infrared
    cfg = configured("caj", "LOSS.DIVERGENCE_WEIGHT", "2")
    assert loss_of(cfg, torch.randn(6, 4), [0, 1] * 3, three, views=2)["divergence"].abs() < 1e-5
    alone = load_config(overrides=["DATA.EXCHANGE", "none"], base=cfg)
    assert loss_of(alone, torch.randn(4, 4), [0, 1] * 2, two)["divergence"] > 0.1
    assert "divergence" not in loss_of(configured("caj"), torch.randn(6, 4), [0, 1] * 3)


def test_gem_learns_its_power_only_where_it_is_asked_for():
    with torch.device("meta"):
        learned, fixed = network("agw", "MODEL.POOL", "gem_learned"), network("agw")
    assert learned.head.pool.p.shape == (learned.head.classifier.in_features,) and fixed.head.pool.p is None
    groups = learned.parameter_groups(0.1, 0.2)
    holding, = (group for group in groups if any(learned.head.pool.p is p for p in group["params"]))
    assert holding["base_lr"] == pytest.approx(0.02)  # the trunk's rate


def test_deen_reads_all_positions_only_where_it_is_asked_for():
    """Whoever reads all positions alike does not notice where they stand; halves of the image are told apart."""
    high, low = torch.randn(1, 16, 8, 4), torch.randn(1, 64, 8, 4)  # the thin first stage, and the stem
    order = torch.randperm(32)
    shuffled = low.flatten(2)[..., order].unflatten(2, (8, 4))
    for positions, alike in (("halves", False), ("all", True)):
        block = network("deen", "MODEL.MFA.POSITIONS", positions).eval().mfa[0].position
        nn.init.ones_(block.out[1].weight)  # it starts at 0, which would hide the block
        assert torch.allclose(block(high, low), block(high, shuffled), atol=1e-5) == alike, positions


def test_dropout_of_the_three_views():
    with torch.device("meta"):  # where nothing is drawn
        assert network("deen", "MODEL.DEE.DROPOUT", "0.25").dee.dropout.p == 0.25


@pytest.mark.parametrize("method", ["base", "agw", "caj", "deen"])
def test_neck_and_classifier_start_as_the_authors_do(method):
    torch.manual_seed(0)
    head = build_model(configured(method).MODEL, classes=400).head
    assert head.neck.weight.mean().item() == pytest.approx(1, abs=2e-3)
    assert head.neck.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not head.neck.bias.any() and not head.neck.bias.requires_grad
    assert head.classifier.weight.std().item() == pytest.approx(0.001, rel=0.02)
