"""MSCMNet against its authors' arithmetic: weights and images by rule, outputs, losses and gradients stored."""

import json

import numpy as np
import pytest
import torch
from reference import (
    DATA,
    check_features,
    check_trained,
    drawn_once,
    image,
    nothing_drawn,
    recorded,
    relative,
    sample,
    unwritten_state,
    weight,
)
from thin import thin
from torch import nn

from assembly.recipe import build_loss, build_network, check_together, image_size
from assembly.trained import load_run
from common.batch import Batch, Kind, Stream
from configs.load import load_config
from losses.quadruple_center import QuadrupleCenterTripletLoss
from losses.view_center import ViewCenterLoss
from models.authors_checkpoint import AuthorsCheckpointError, authors_name, from_authors
from models.build import build_model
from models.network import MethodError
from models.parts.mfa import ImageSizeError
from models.parts.mimb import MIMB, ChannelAttention, check_positions
from utils.training.checkpoint import CheckpointError, save_checkpoint
from utils.training.optimizer import rate_at

KEYS = "keys_mscmnet.json"
CASES = json.loads((DATA / "losses_mscmnet.json").read_text())["cases"]
POSITIONS = 288  # of the images of 384x192 whose network the keys describe
KINDS = [Kind(False, 0), Kind(False, 1), Kind(True, 0), Kind(True, 1)]


@drawn_once
def mscmnet_state(positions: str) -> dict[str, torch.Tensor]:
    """What the authors' network computes with, by the rule, for images of so many positions of the last map."""
    widths = {times * POSITIONS: times * int(positions) for times in (1, 3, 4)}
    state = {}
    for entry in json.loads((DATA / KEYS).read_text()):
        key, shape = entry["key"], entry["shape"]
        if not entry["used"]:
            continue
        if key.startswith("layerATT"):
            shape = [widths.get(size, size) for size in shape]
        if "int" in entry["dtype"]:
            state[key] = torch.zeros(shape, dtype=torch.long)
            continue
        value = weight(key, tuple(shape))
        if key.startswith("NL_") and key.endswith(".W.0.weight"):
            value = 0.3 * value
        last = key.startswith("base_resnet.base.layer4.") and any(part in key for part in (".bn3.", ".downsample.1."))
        if last and key.endswith(("weight", "bias")):
            value = 0.05 * value
        state[key] = torch.from_numpy(value).float()
    return state


def empty(size, *overrides):
    overrides = ["MODEL.PRETRAINED", "none", "DATA.HEIGHT", str(size[0]), "DATA.WIDTH", str(size[1]), *overrides]
    cfg = load_config("configs/sysu_mscmnet.yaml", overrides)
    with nothing_drawn():
        return build_model(cfg.MODEL, 395, size), cfg


def filled(size):
    model, cfg = empty(size)
    model.load_state_dict(from_authors(mscmnet_state(str(size[0] * size[1] // 256)), model))
    return model.double(), cfg


def watch(model):
    named = {"layer1": model.stages[0], "layer4": model.stages[3]}
    for stage, block in ((2, 1), (2, 2), (3, 1), (3, 3)):
        named[f"nonlocal{stage}_{block}"] = model.stages[stage - 1].non_local[block - 1]
    named |= {f"compensation{i}": block for i, block in enumerate(model.mimb)}
    return recorded(named)


def check_stages(stored, seen):
    assert {f"stage/{name}" for name in seen} == {key for key in stored if key.startswith("stage/")}
    for name, value in seen.items():
        assert relative(sample(value, 256), stored[f"stage/{name}"]) < 1e-6, name


def test_evaluation_matches(whole):
    """By default of visible images alone, which pass every stage."""
    model, _ = filled((384, 192))
    stored, seen = np.load(DATA / "eval_mscmnet.npz"), watch(model.eval())
    kinds = [(kind, modality) for kind in ("noise", "blocks") for modality in ("infrared", "visible")]
    with torch.inference_mode():
        for kind, modality in kinds if whole else kinds[-1:]:
            images = image(1234, 2, 384, 192, {"noise": 1, "blocks": 24}[kind]).float().double()
            stems = model.visible_stems if modality == "visible" else model.infrared_stems
            pooled, neck = model.head.features(model.encode(stems(images)))
            check_features(stored, f"{kind}/{modality}", pooled[None], neck[None])
        check_stages(stored, seen)
        if whole:
            embedded = model.float().embed(images.float(), infrared=False, flip=False)
            assert relative(embedded, stored["blocks/visible/neck"]) < 1e-5


@pytest.mark.long
def test_a_training_step_matches():
    model, cfg = filled((96, 48))
    stored = np.load(DATA / "train_mscmnet.npz")
    images, labels = image(77, 48, 96, 48, 8).float().double(), torch.from_numpy(stored["labels"])
    seen = watch(model.train())
    output = model(Batch([Stream(*part) for part in zip(images.split(12), labels.split(12), KINDS)]))
    terms = build_loss(cfg)(output, epoch=0)
    sum(terms.values()).backward()

    check_stages(stored, seen)
    assert terms["id"].item() == pytest.approx(float(stored["loss/id"]), rel=1e-6)
    assert terms["center"].item() == pytest.approx(float(stored["loss/qct"]), rel=1e-6)
    assert sum(terms.values()).item() == pytest.approx(float(stored["loss/total"]), rel=1e-6)
    assert relative(output.pooled[0, :, ::8].detach(), stored["pooled"]) < 1e-6
    assert relative(output.logits[0].detach(), stored["logits"]) < 1e-6
    norms = json.loads((DATA / "train_mscmnet_gradient_norms.json").read_text())
    gradients = {authors_name(key, model): p.grad for key, p in model.named_parameters() if p.requires_grad}
    # A number for each channel changes nothing before a layer norm over positions or a batch norm.
    zero = {name for name, gradient in gradients.items() if gradient.norm() < 1e-8}
    assert set(gradients) - set(norms) == zero and len(zero) == 17
    for name, norm in norms.items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-6), name
    state = {authors_name(key, model): value for key, value in model.state_dict().items()}
    for key in stored:
        kind, _, name = key.partition("/")
        if kind == "gradient" and name not in zero:
            assert relative(sample(gradients[name], 256), stored[key]) < 1e-6, key
        elif kind == "after_step":
            assert relative(state[name].reshape(-1)[:64], stored[key]) < 1e-6, key


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["seed"]))
def test_the_quadruple_centre_triplet_alone_matches(case):
    people, images, random = case["P"], case["K"], np.random.RandomState(case["seed"])
    rows, centers = random.standard_normal((4 * people * images, 64)), random.standard_normal((100, 64))
    labels = np.tile(np.repeat([7, 3, 11, 40][:people], images), 4)
    features = torch.from_numpy(case["scale"] * (rows + 1.5 * centers[labels])).requires_grad_()
    value = QuadrupleCenterTripletLoss(0.7)(
        features, torch.from_numpy(labels), torch.arange(len(labels)) >= len(labels) // 2
    )
    value.backward()
    assert value.item() == pytest.approx(case["value"], rel=1e-6)
    if np.isfinite(case["gradient_norm"]):
        assert features.grad.norm().item() == pytest.approx(case["gradient_norm"], rel=1e-6)
        assert relative(features.grad[0, :4], case["gradient_row0"]) < 1e-6
    else:  # theirs is the root of 0 in the term that has no weight
        assert images == 1 and features.grad.isfinite().all() and features.grad.any()


def test_centres_of_known_people_and_of_one_modality_alone():
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 0.5], [9.0, 0.5]], dtype=torch.float64)
    labels, infrared = torch.tensor([7, 7, 8, 9]), torch.tensor([False, True, False, False])
    # Centres (1, 0), (1, 0.5), (9, 0.5). Pull: person 7 alone, 2 apart. Of the pushes only that of person 8's row, 0.5
    # from person 7's centre, is short of 0.7: by 0.2, twice among its three others.
    loss = QuadrupleCenterTripletLoss(0.7)(features, labels, infrared)
    assert loss.item() == pytest.approx((2 + 2 * 0.2 / 3 / 4) / 2)
    same = torch.zeros(4, dtype=torch.long)
    assert QuadrupleCenterTripletLoss(0.7)(features[:2], same[:2], infrared[:2]).item() == pytest.approx(1)


def test_a_views_own_centre():
    features = torch.tensor([[0.0], [2.0], [5.0], [9.0], [9.0]], dtype=torch.float64)
    labels, infrared = torch.tensor([7, 7, 7, 7, 8]), torch.tensor([False, False, False, True, False])
    view = torch.tensor([0, 0, 1, 0, 0])
    assert ViewCenterLoss()(features, labels, infrared, view).item() == pytest.approx(2 / 5)


def test_attention_between_channels_is_torchs():
    attention, theirs = ChannelAttention(27).double(), nn.MultiheadAttention(27, 3, batch_first=True).double()
    for tensor in attention.parameters():
        nn.init.normal_(tensor)
    theirs.load_state_dict({
        "in_proj_weight": attention.in_proj.weight, "in_proj_bias": attention.in_proj.bias,
        "out_proj.weight": attention.out_proj.weight, "out_proj.bias": attention.out_proj.bias,
    })
    x, values = (torch.randn(2, 5, 27, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for other in (values, x):
        ours, expected = attention(x, other), theirs(x, x, other, need_weights=False)[0]
        torch.testing.assert_close(ours, expected)
        inputs = {x, other}
        for pair in zip(*(torch.autograd.grad(y.square().sum(), [*inputs]) for y in (ours, expected))):
            torch.testing.assert_close(*pair)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("stride", [4, 2, None])
def test_a_correlation_block_step_by_step(stride, residual):
    block = MIMB(16, 18, finer=stride and (5, stride), residual=residual).double()
    y = torch.randn(2, 16, 6, 3, dtype=torch.float64)
    tokens = nn.functional.layer_norm(block.reduce(y).reshape(2, 4, 18), [18])
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in (block.norm, block.mlp_norm))
    source, other = (), tokens
    if stride:
        source = (torch.randn(2, 5, 6 * stride, 3 * stride, dtype=torch.float64),)
        other = nn.functional.layer_norm(block.side(*source).reshape(2, 4, 18), [18])
        tokens = tokens + 0.1 * other
    tokens = tokens + block.attention(other, tokens)
    first, _, second = block.mlp
    wide = first(nn.functional.layer_norm(tokens, [18]))
    tokens = tokens + second(wide / (1 + (-1.702 * wide).exp()))
    expected = block.expand(tokens.reshape(2, 4, 6, 3))
    torch.testing.assert_close(block(y, *source), y + expected if residual else expected)


def small(*overrides):
    cfg = load_config("configs/quickstart_mscmnet.yaml", ["DATA.HEIGHT", "48", "DATA.WIDTH", "48", *overrides])
    with thin():
        return build_network(cfg, 3), cfg


def batch_of(images, labels=(0, 1)):
    return Batch([Stream(x, torch.tensor(labels), kind) for x, kind in zip(images, KINDS)])


@pytest.mark.parametrize("overrides", [
    [], ["MODEL.MSCMNET.STEMS", "1"], ["MODEL.MSCMNET.CORRELATION", "false"], ["MODEL.MSCMNET.RESIDUAL", "true"],
    ["LOSS.MSCMNET.CENTER_WEIGHT", "0.0"], ["LOSS.MSCMNET.VIEW_WEIGHT", "0.5"],
], ids=lambda options: " ".join(options) or "plain")
def test_every_parameter_learns_and_the_embedding_has_length_one(overrides):
    model, cfg = small(*overrides)
    for block in (module for stage in model.stages[1:3] for module in stage.non_local):
        nn.init.ones_(block.out[1].weight)  # which starts at 0 and lets no gradient into the block
    images = torch.randn(4, 2, 3, 48, 48)
    terms = build_loss(cfg)(model.train()(batch_of(images)), epoch=0)
    assert terms.keys() == {"id", "center"} | ({"view"} if "LOSS.MSCMNET.VIEW_WEIGHT" in overrides else set())
    sum(terms.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == ["head.neck.bias"]
    for flip in (False, True):
        norms = model.eval().embed(images[0], infrared=True, flip=flip).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(2))


def test_each_view_passes_its_own_stem_and_an_embedding_their_mean():
    model, _ = small()
    model.eval()
    images = torch.randn(4, 2, 3, 48, 48)
    stems = [*model.visible_stems, *model.infrared_stems]
    maps = [stem(images[0]) for stem in stems]
    assert all(not torch.equal(maps[i], maps[j]) for i in range(4) for j in range(i))  # each has weights of its own
    found = []
    model.stages[0].register_forward_hook(lambda _m, inputs, _o: found.append(inputs[0]))
    model(batch_of(images))
    torch.testing.assert_close(found[0], torch.cat([stem(x) for stem, x in zip(stems, images)]))
    for infrared, own in ((False, maps[:2]), (True, maps[2:])):
        found.clear()
        model.embed(images[0], infrared, flip=False)
        torch.testing.assert_close(found[0], (own[0] + own[1]) / 2)


def test_pretrained_stems_start_alike(monkeypatch, tmp_path):
    with thin():
        from torchvision.models import get_model
        torch.save(get_model("resnet18", weights=None).state_dict(), tmp_path / "resnet18.pth")
    model, _ = small("MODEL.PRETRAINED", str(tmp_path / "resnet18.pth"))
    first, *others = [*model.visible_stems, *model.infrared_stems]
    assert all(torch.equal(first[0].weight, other[0].weight) for other in others) and len(others) == 3
    assert len({id(stem[0].weight) for stem in (first, *others)}) == 4


@pytest.mark.parametrize("size, positions", [((384, 192), 288), ((384, 144), 216), ((288, 144), 162), ((48, 48), 9)])
def test_sizes_that_the_blocks_take(size, positions):
    assert check_positions(*size) == positions


@pytest.mark.parametrize("size, map_size", [
    ((384, 128), "24x8"), ((256, 128), "16x8"), ((360, 192), "22.5x12"), ((48, 40), "3x2.5"),
])
def test_another_size_is_refused_before_any_work(size, map_size, tmp_path):
    overrides = ["DATA.HEIGHT", str(size[0]), "DATA.WIDTH", str(size[1]), "DATA.ROOT", str(tmp_path / "nowhere")]
    cfg = load_config("configs/quickstart_mscmnet.yaml", overrides)
    given = rf"images of {size[0]}x{size[1]} give a map of {map_size}; .* set DATA.HEIGHT and DATA.WIDTH"
    with pytest.raises(ImageSizeError, match=given):
        check_together(cfg, torch.device("cpu"))
    with pytest.raises(ImageSizeError, match="multiples of 16 such as 384 and 192"):
        build_model(cfg.MODEL, 3, image_size(cfg))
    cfg = load_config("configs/quickstart_mscmnet.yaml", [*overrides, "MODEL.MSCMNET.CORRELATION", "false"])
    check_together(cfg, torch.device("cpu"))


def test_views_and_stems_that_do_not_fit_are_refused_before_any_work():
    one = ["DATA.INFRARED", "[['flip', 'normalise']]"]
    cfg = load_config("configs/quickstart_mscmnet.yaml", one)
    with pytest.raises(MethodError, match="STEMS is 2, one for each view of an image, and .* have 2 and 1 views: give"):
        check_together(cfg, torch.device("cpu"))
    cfg = load_config("configs/quickstart_mscmnet.yaml", [*one, "MODEL.MSCMNET.STEMS", "1"])
    check_together(cfg, torch.device("cpu"))


def test_a_trained_network_takes_no_images_of_another_size(tmp_path):
    model, cfg = small()
    state = {"config": cfg.dump(), "model": model.state_dict(), "identities": [1, 2, 3], "epoch": 1, "step": 0}
    save_checkpoint(tmp_path / "last.pth", state)
    with thin():
        load_run(tmp_path, [], complete=False)
        with pytest.raises(CheckpointError, match="on images of 48x48, and .* DATA.WIDTH, which are 96 and 48, as in"):
            load_run(tmp_path, ["DATA.HEIGHT", "96"], complete=False)


def test_the_importer_takes_the_whole_and_refuses_parts():
    model, _ = empty((384, 192))
    theirs = unwritten_state(KEYS)
    used = {authors_name(key, model) for key in from_authors({**theirs, 7: torch.zeros(2)}, model)}
    assert used == {entry["key"] for entry in json.loads((DATA / KEYS).read_text()) if entry["used"]}
    check_trained(KEYS, model)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(42.9e6, abs=0.05e6)
    without = {key: value for key, value in theirs.items() if key != "layerATT1.attn.in_proj_weight"}
    with pytest.raises(AuthorsCheckpointError, match="missing: layerATT1.attn.in_proj_weight"):
        from_authors(without, model)
    with pytest.raises(AuthorsCheckpointError, match="unexpected: layerATT4.ln_1.weight"):
        from_authors({**theirs, "layerATT4.ln_1.weight": torch.zeros(2)}, model)
    other, _ = empty((96, 48))
    with pytest.raises(AuthorsCheckpointError, match=r"layerATT0.ln_1.weight is \[288\], not \[18\]"):
        from_authors(theirs, other)


def test_the_rate_falls_where_the_recipe_says():
    solver = load_config("configs/sysu_mscmnet.yaml").SOLVER
    expected = {epoch: 0.1 + 0.09 * epoch for epoch in range(10)} | {
        10: 1, 24: 1, 25: 0.1, 89: 0.1, 90: 0.01, 119: 0.01, 120: 0.001, 149: 0.001,
    }
    assert {e: rate_at(solver.BASE_LR, e, solver) / solver.BASE_LR for e in expected} == pytest.approx(expected)
