"""PMT against its authors' arithmetic: weights and images by rule, outputs, losses and gradients stored."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from batches import two_streams
from reference import (
    DATA,
    baseline_state,
    check_after_backward,
    check_features,
    check_stages,
    check_trained,
    image,
    nothing_drawn,
    relative,
    sample,
    unwritten_state,
    weight,
)

from assembly.recipe import build_loss, build_network, check_together
from common.batch import Kind, Output, Rows
from configs.load import flatten, load_config
from data.transforms import read_step
from losses.dcl import DCLLoss
from losses.msel import MSELLoss
from losses.triplet import TripletLoss
from models.authors_checkpoint import AuthorsCheckpointError, authors_name, from_authors
from models.network import MethodError
from models.parts.backbone import PretrainedError
from models.parts.vit import IMAGENET, resize_positions
from utils.training.optimizer import build_optimizer, rate_at

KEYS = "keys_pmt.json"
ALONE = json.loads((DATA / "losses_pmt.json").read_text())
STILL = ["MODEL.PRETRAINED", "none", "MODEL.PMT.DROPOUT", "0", "MODEL.PMT.DROP_PATH", "0"]
SMALL = ["DATA.HEIGHT", "64", "DATA.WIDTH", "40"]  # 5 x 3 patches
LABELS = [7] * 4 + [3] * 4


def by_rule(key: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(weight(key, shape)).float()


def filled(*overrides):
    """The network of 395 classes by the rule, and its configuration; of fewer blocks, the first ones."""
    cfg = load_config("configs/sysu_pmt.yaml", [*STILL, *overrides])
    with nothing_drawn():
        model = build_network(cfg, 395)
    theirs = {authors_name(key, model): value for key, value in model.state_dict().items()}
    # One with all blocks is drawn once for all tests, in the size of the keys' file.
    drawn = baseline_state(KEYS, "no such stage") if cfg.MODEL.PMT.DEPTH == 12 else {}
    for key, value in theirs.items():
        if value.is_floating_point():
            kept = drawn.get(key)
            theirs[key] = kept if kept is not None and kept.shape == value.shape else by_rule(key, *value.shape)
    model.load_state_dict(from_authors(theirs, model))
    return model.double(), cfg


def watch(model):
    seen = {}

    def keep(name):
        return lambda _module, _inputs, output: seen.__setitem__(name, output.detach())

    model.trunk.patch_embed.register_forward_hook(keep("patches"))
    for i, block in enumerate(model.trunk.blocks, start=1):
        block.register_forward_hook(keep(f"block{i}"))
    return seen


@pytest.mark.long
def test_evaluation_matches():
    model, _ = filled()
    stored, seen = np.load(DATA / "eval_pmt.npz"), watch(model.eval())
    with torch.inference_mode():
        for kind, block in (("noise", 1), ("blocks", 16)):
            images = image(1234, 2, 256, 128, block).float().double()
            check_features(stored, kind, *(features[None] for features in model.features(images)))
        assert check_stages(stored, seen) == {"patches", "block1", "block6", "block12"}
        embedded = model.float().embed(images.float(), infrared=True, flip=False)
        assert relative(embedded, stored["blocks/neck"]) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("epoch", [0, 6])
def test_a_training_step_matches(epoch):
    model, cfg = filled(*SMALL)
    stored = np.load(DATA / "train_pmt.npz")
    images = image(77, 16, 64, 40, 8).float().double()
    output = model.train()(two_streams(images[:8], images[8:], LABELS))
    assert relative(output.pooled[0].detach(), stored["features"]) < 1e-6
    assert relative(output.logits[0].detach(), stored["logits"]) < 1e-6
    check_terms(stored, build_loss(cfg)(output, epoch), epoch).backward()
    gradients = {key.replace(f"gradient/epoch{epoch + 1}/", "gradient/"): stored[key] for key in stored}
    gradients = {key: value for key, value in gradients.items() if "/epoch" not in key}
    norms = json.loads((DATA / "train_pmt_gradient_norms.json").read_text())[f"epoch{epoch + 1}"]
    check_after_backward(gradients, norms, model)


def check_terms(stored, terms, epoch):
    """The terms are the stored ones of the authors' epoch, which count from 1; returns their sum."""
    total = sum(terms.values())
    names = {key.rpartition("/")[2] for key in stored if key.startswith(f"epoch{epoch + 1}/")}
    assert {*terms} == names - {"total"}
    for name, term in {**terms, "total": total}.items():
        assert term.item() == pytest.approx(float(stored[f"epoch{epoch + 1}/{name}"]), rel=1e-6), name
    return total


def test_the_patches_and_the_first_block_match():
    model, _ = filled("MODEL.PMT.DEPTH", "1")
    stored, seen = np.load(DATA / "eval_pmt.npz"), watch(model.eval())
    with torch.inference_mode():
        model.features(image(1234, 2, 256, 128, 16).float().double())
    there = {key: stored[key] for key in stored if key.endswith(("/patches", "/block1"))}
    assert check_stages(there, seen) == {"patches", "block1"}


@pytest.mark.parametrize("epoch", [0, 6])
def test_neck_classifier_and_totals_match_from_the_stored_feature(epoch):
    model, cfg = filled("MODEL.PMT.DEPTH", "1", *SMALL)
    stored = np.load(DATA / "train_pmt.npz")
    pooled = torch.from_numpy(stored["features"]).double()
    neck = model.train().neck(pooled)
    rows = Rows(torch.tensor(2 * LABELS), [8, 8], [Kind(False), Kind(True)])
    output = Output(rows, pooled=pooled[None], neck=neck[None], logits=model.identity_classifier(neck)[None])
    assert relative(output.logits[0].detach(), stored["logits"]) < 1e-6
    check_terms(stored, build_loss(cfg)(output, epoch), epoch).backward()
    norms = json.loads((DATA / "train_pmt_gradient_norms.json").read_text())[f"epoch{epoch + 1}"]
    for key, ours in (("bottleneck.weight", model.neck), ("classifier.weight", model.identity_classifier)):
        gradient = ours.weight.grad
        assert relative(sample(gradient, 256), stored[f"gradient/epoch{epoch + 1}/{key}"]) < 1e-6
        assert gradient.norm().item() == pytest.approx(norms[key], rel=1e-6)
    for key in ("running_mean", "running_var"):
        assert relative(getattr(model.neck, key), stored[f"after_step/bottleneck.{key}"]) < 1e-6


@pytest.mark.parametrize("case", ALONE["cases"], ids=lambda case: f"seed {case['seed']}")
def test_losses_alone_match(case):
    people, each = case["P"], case["K"]
    labels = torch.tensor([7, 3, 11, 40])[:people].repeat_interleave(each).repeat(2)
    infrared = torch.arange(len(labels)) >= people * each
    random = np.random.RandomState(case["seed"])
    rows, centres = random.standard_normal((len(labels), 64)), random.standard_normal((100, 64))
    features = torch.from_numpy(case["scale"] * (rows + 1.5 * centres[labels])).requires_grad_()
    triplet = TripletLoss(margin=0.1)
    values = {
        "msel": MSELLoss()(features, labels, infrared),
        "dcl": DCLLoss()(features, labels, infrared),
        "triplet_joint": triplet(features, labels, infrared),
        "triplet_intra": sum(triplet(features[rows], labels[rows], infrared[rows]) for rows in (infrared, ~infrared)),
    }
    for name, value in values.items():
        expected = case[name]
        gradient, = torch.autograd.grad(value, features, retain_graph=True)
        assert value.item() == pytest.approx(expected["value"], rel=1e-6), name
        assert gradient.norm().item() == pytest.approx(expected["grad_norm"], rel=1e-6), name
        assert gradient[0, :4].tolist() == pytest.approx(expected["grad_first"], rel=1e-6), name


@pytest.mark.parametrize("name", ["sysu", "regdb"])
def test_rates_by_epoch_and_part_match(name):
    cfg = load_config(f"configs/{name}_pmt.yaml", STILL)
    with torch.device("meta"):
        model = build_network(cfg, 395)
    optimizer = build_optimizer(model.parameter_groups(cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_LR_FACTOR), cfg.SOLVER)
    whole, half = optimizer.param_groups
    schedule = ALONE["schedule"][name]
    assert len(schedule) == cfg.SOLVER.EPOCHS
    for epoch, *expected in schedule:
        found = [rate_at(group["base_lr"], epoch - 1, cfg.SOLVER) for group in (whole, half)]
        assert found == pytest.approx(expected, rel=1e-9), epoch
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    assert {names[id(parameter)] for parameter in whole["params"]} == {
        "trunk.cls_token", "trunk.pos_embed", "trunk.norm.weight", "trunk.norm.bias", "neck.weight",
        "identity_classifier.weight",
    }
    assert all(names[id(p)].startswith(("trunk.blocks.", "trunk.patch_embed.")) for p in half["params"])
    assert len(whole["params"]) + len(half["params"]) + 1 == len(names)  # the neck's bias is not trained
    for group in (whole, half):
        assert (group["weight_decay"], group["betas"], group["eps"]) == (1e-4, (0.9, 0.999), 1e-8)


def test_the_importer_takes_the_whole_and_refuses_parts():
    with torch.device("meta"):
        model = build_network(load_config("configs/sysu_pmt.yaml", STILL), 395)
    theirs = unwritten_state(KEYS)
    assert {authors_name(key, model) for key in from_authors(theirs, model)} == set(theirs)
    check_trained(KEYS, model)
    without = {key: value for key, value in theirs.items() if key != "base.blocks.3.attn.qkv.bias"}
    wrong = without | {"base.pos_embed": torch.zeros(1, 129, 768), "base.head.weight": torch.zeros(2, 768)}
    with pytest.raises(AuthorsCheckpointError) as error:
        from_authors(wrong, model)
    for line in ("missing: base.blocks.3.attn.qkv.bias", "unexpected: base.head.weight",
                 "of another shape: base.pos_embed is [1, 129, 768], not [1, 211, 768]"):
        assert line in str(error.value)


def test_positions_are_resized_as_the_authors_do():
    stored = np.load(DATA / "train_pmt.npz")
    positions = torch.from_numpy(np.random.RandomState(1235).standard_normal((1, 197, 768)))
    resized = resize_positions(positions, (21, 10))
    assert tuple(resized.shape) == tuple(stored["resized_shape"]) and torch.equal(resized[:, 0], positions[:, 0])
    assert relative(sample(resized, 256), stored["resized_sample"]) < 1e-6
    torch.testing.assert_close(resize_positions(positions, (14, 14)), positions)


def small(*overrides):
    cfg = load_config("configs/quickstart_pmt.yaml", [
        "MODEL.PMT.DEPTH", "2", "MODEL.PMT.HEADS", "2", "MODEL.PMT.HEAD_WIDTH", "8", *overrides,
    ])
    return build_network(cfg, 5), cfg


def timms(positions: int = 9) -> dict:
    """A file of timm's for the small network, of another grid, and with a head."""
    theirs = {key.removeprefix("trunk."): torch.randn_like(x) for key, x in small()[0].state_dict().items()
              if key.startswith("trunk.")}
    return theirs | {"pos_embed": torch.randn(1, 1 + positions, 16), "head.weight": torch.randn(1000, 16),
                     "head.bias": torch.randn(1000)}


def test_the_network_starts_from_timms_file(tmp_path):
    theirs = timms()
    torch.save(theirs, tmp_path / "vit.pth")
    model, _ = small("MODEL.PRETRAINED", str(tmp_path / "vit.pth"))
    for key, value in model.trunk.state_dict().items():
        expected = resize_positions(theirs[key], (10, 5)) if key == "pos_embed" else theirs[key]
        assert torch.equal(value, expected), key


def test_weights_that_cannot_be_had_are_named_with_where_to_get_them(tmp_path, monkeypatch):
    path = str(tmp_path / "vit.pth")
    with pytest.raises(PretrainedError, match="no such file: .* the path of a state dict of timm's ViT-B/16"):
        small("MODEL.PRETRAINED", path)
    torch.save({key: value for key, value in timms().items() if not key.startswith("blocks.1")}, path)
    with pytest.raises(PretrainedError, match=r"is not a state dict of timm's ViT-B/16.*blocks\.1\.norm1\.weight"):
        small("MODEL.PRETRAINED", path)
    for wrong in (torch.zeros(1, 11, 16), torch.zeros(1, 10, 32), torch.zeros(160), torch.zeros(1, 1, 16)):
        torch.save(timms() | {"pos_embed": wrong}, path)
        with pytest.raises(PretrainedError, match="which is no class token and a square grid, 16 numbers each: name"):
            small("MODEL.PRETRAINED", path)

    def no_network(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(PretrainedError) as error:
        small("MODEL.PRETRAINED", "imagenet")
    assert IMAGENET in str(error.value) and str(tmp_path / "hub" / "checkpoints") in str(error.value)


def test_without_timm_the_method_says_how_to_get_it(monkeypatch):
    cfg = load_config("configs/quickstart_pmt.yaml")
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    message = "PMT needs timm .*: pip install -r requirements-optional.txt"
    with pytest.raises(MethodError, match=message):
        build_network(cfg, 5)
    with pytest.raises(MethodError, match=message):
        check_together(cfg, torch.device("cpu"))
    check_together(load_config("configs/quickstart_agw.yaml"), torch.device("cpu"))


def test_enhancement_of_two_known_people():
    features = torch.tensor([[0.0], [3.0], [5.0], [9.0], [20.0], [22.0]], dtype=torch.float64)
    labels, infrared = torch.tensor([7, 7, 7, 7, 8, 8]), torch.tensor([0, 0, 1, 1, 0, 1]).bool()
    # Person 7, visible rows: 3 within and 7, 4 across; infrared rows: 4 within and 3.5, 7.5 across. Person 8 has no
    # second row in a modality.
    expected = ((4 ** 2 + 1 ** 2) / 2 + (0.5 ** 2 + 3.5 ** 2) / 2) / 2
    assert MSELLoss()(features, labels, infrared).item() == pytest.approx(expected)
    order = torch.tensor([3, 0, 5, 2, 4, 1])
    assert MSELLoss()(features[order], labels[order], infrared[order]).item() == pytest.approx(expected)


def test_enhancement_of_single_images_and_of_one_modality_is_zero():
    features = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([1, 2, 1, 2])
    for infrared in (torch.tensor([False, False, True, True]), torch.tensor([True] * 4)):
        loss = MSELLoss()(features, labels, infrared)
        loss.backward()
        assert loss == 0 and features.grad.isfinite().all()


def test_the_total_becomes_another_after_the_progressive_epochs():
    rows = Rows(torch.tensor([1, 1, 2, 2] * 2), [4, 4], [Kind(False), Kind(True)])
    output = Output(rows, pooled=torch.randn(1, 8, 4), logits=torch.randn(1, 8, 3))

    def names(epoch, *overrides):
        return build_loss(load_config("configs/sysu_pmt.yaml", [*overrides]))(output, epoch).keys()

    assert names(0) == names(5) == {"id", "triplet"} and names(6) == {"id", "triplet", "dcl", "msel"}
    assert names(0, "LOSS.PMT.PROGRESSIVE_EPOCHS", "0") == names(6)


def test_drop_path_rises_evenly_and_dropout_is_where_it_is():
    with torch.device("meta"):
        model = build_network(load_config("configs/sysu_pmt.yaml", ["MODEL.PRETRAINED", "none"]), 5)
    rates = [getattr(block.drop_path2, "drop_prob", 0.0) for block in model.trunk.blocks]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])
    dropped = {re.sub(r"\d+", "N", name): module.p for name, module in model.named_modules()
               if isinstance(module, torch.nn.Dropout) and module.p}
    assert dropped == dict.fromkeys([
        "trunk.pos_drop", "trunk.blocks.N.attn.proj_drop", "trunk.blocks.N.mlp.dropN",
    ], 0.03)
    norms = [module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert norms == [1e-5] * 25


def test_patches_overlap_and_what_does_not_fill_one_is_left_out():
    model, _ = small("DATA.HEIGHT", "17", "DATA.WIDTH", "16")
    assert model.trunk.patch_embed.grid == (2, 2) and model.trunk.pos_embed.shape == (1, 5, 16)  # 8 and every 6 pixels
    images = torch.randn(1, 3, 17, 16)
    changed = images.clone()
    changed[..., 14:, :] = 0
    changed[..., 14:] = 0
    model.eval()
    assert torch.equal(model.embed(images, False, flip=False), model.embed(changed, False, flip=False))


def test_class_attention_is_that_of_the_last_block_and_one_where_it_is_even():
    model, _ = small()
    attention, images, seen = model.eval().trunk.blocks[1].attn, torch.randn(3, 3, 64, 32), {}
    attention.qkv.register_forward_hook(lambda _m, _i, output: seen.__setitem__("qkv", output))
    attended = model.own_maps()["class attention"](images)
    query, key = (seen["qkv"].view(3, 51, 3, 2, 8)[:, :, i].transpose(1, 2) for i in (0, 1))
    share = (query @ key.mT / 8 ** 0.5).softmax(dim=-1).mean(dim=1)[:, 0, 1:]
    torch.testing.assert_close(attended, 51 * share.view(3, 10, 5))
    assert not (attended == 1).all()
    torch.nn.init.zeros_(attention.qkv.weight)  # so that no query tells a key from another
    torch.testing.assert_close(model.own_maps()["class attention"](images), torch.ones(3, 10, 5))


@pytest.mark.parametrize("name, epochs", [("sysu", 24), ("regdb", 36), ("llcm", 24)])
def test_the_recipe(name, epochs):
    cfg = load_config(f"configs/{name}_pmt.yaml")
    solver, data = cfg.SOLVER, cfg.DATA
    assert (data.NAME, data.HEIGHT, data.WIDTH, data.READ_SIZE, data.RESIZE) == (
        name, 256, 128, [288, 144], "lanczos",
    )
    assert (solver.EPOCHS, solver.IDENTITIES, solver.IMAGES, solver.SAMPLER) == (epochs, 8, 4, "distinct")
    assert (solver.OPTIMIZER, solver.WEIGHT_DECAY, solver.PRECISION, cfg.TEST.FLIP) == ("adamw", 1e-4, "float16", False)
    (visible,), (infrared,) = data.VISIBLE, data.INFRARED
    erase = {"erase": {"area": [0.02, 0.4]}}
    assert visible == ["resize", "flip", {"grey": {"p": 1.0, "until": 6}}, "normalise", erase]
    assert infrared == ["resize", "flip", "jitter_or_blur", "normalise", erase]
    assert read_step("jitter_or_blur")[1].items() >= {
        "p": 0.5, "brightness": 0.3, "contrast": 0.3, "radius": 10, "sigma": [0.1, 3.0],
    }.items()
    assert {key: value for key, value in flatten(cfg) if ".PMT." in key} == {
        "MODEL.PMT.PATCH": 16, "MODEL.PMT.STRIDE": 12, "MODEL.PMT.DEPTH": 12, "MODEL.PMT.HEADS": 12,
        "MODEL.PMT.HEAD_WIDTH": 64, "MODEL.PMT.DROPOUT": 0.03, "MODEL.PMT.DROP_PATH": 0.1, "MODEL.PMT.NORM_EPS": 1e-5,
        "LOSS.PMT.PROGRESSIVE_EPOCHS": 6, "LOSS.PMT.MARGIN": 0.1, "LOSS.PMT.DCL_WEIGHT": 0.5,
        "LOSS.PMT.MSEL_WEIGHT": 0.5,
    }
