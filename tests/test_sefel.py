"""SEFEL against its authors' arithmetic: weights and images by rule, outputs, losses and gradients stored."""

import json

import numpy as np
import pytest
import torch
from programs import run
from reference import (
    DATA,
    check_after_backward,
    check_trained,
    drawn_once,
    image,
    nothing_drawn,
    recorded,
    relative,
    sample,
    weight,
)
from shared import SMALL
from torch.nn import functional as F

from assembly.recipe import build_loss, check_together
from assembly.update import Update
from common.batch import Batch, Kind, Pasted, Stream
from configs.load import load_config
from losses.column_overlap import ColumnOverlapLoss
from losses.mutual import MutualLoss, least_alike
from losses.soft_cross_entropy import SoftCrossEntropyLoss
from models.authors_checkpoint import AuthorsCheckpointError, authors_name, from_authors
from models.build import build_model
from models.network import MethodError
from utils.training.checkpoint import read_own_checkpoint
from utils.training.optimizer import rate_at

KEYS = "keys_sefel.json"
KINDS = [Kind(False), Kind(True), Kind(False, shape=True), Kind(True, shape=True)]


@drawn_once
def state_of(salt: str) -> dict[str, torch.Tensor]:
    """A whole state dict by the rule, of the network or its teacher; what is unused is 0, which takes no time."""
    state = {}
    for entry in json.loads((DATA / KEYS).read_text()):
        key, shape = entry["key"], tuple(entry["shape"])
        if "int" in entry["dtype"] or not entry["used"]:
            state[key] = torch.zeros(shape, dtype=torch.long if "int" in entry["dtype"] else torch.float32)
            continue
        value = weight(key, shape, salt)
        if key.startswith("projs."):
            value = value / 2                                   # by the first axis, of 2048, where others have the rest
        last = any(f".{part}" in key for part in ("bn3", "dsbn", "downsample.1"))
        if last and key.startswith("base_resnet.base.layer4.") and key.endswith((".weight", ".bias")):
            value = 0.05 * value
        state[key] = torch.from_numpy(value).float()
    return state


def empty(*overrides):
    cfg = load_config("configs/sysu_sefel.yaml", ["MODEL.PRETRAINED", "none", *overrides])
    with nothing_drawn():
        return build_model(cfg.MODEL, 395), cfg


def filled(student="", teacher="#teacher"):
    model, cfg = empty()
    for part, salt in (("student.", student), ("teacher.", teacher)):
        found = from_authors(state_of(salt), model)
        model.load_state_dict({name: value for name, value in found.items() if name.startswith(part)}, strict=False)
    return model.double(), cfg


def test_evaluation_matches(whole):
    model, _ = filled(teacher="")
    stored, stages = np.load(DATA / "eval_sefel.npz"), model.eval().teacher.stages
    seen = recorded({"layer1": stages[0], "layer4": stages[3]})
    with torch.inference_mode():
        for kind, size in {"noise": 1, "blocks": 24}.items() if whole else [("blocks", 24)]:
            images = image(1234, 2, 288, 144, size).float().double()
            for modality in ("visible", "infrared"):
                for name, features in zip(("pooled", "neck"), model.features(images, modality)):
                    norm = features.norm(dim=1)
                    assert relative(features / norm[:, None], stored[f"{kind}/{modality}/{name}"]) < 1e-6
                    assert relative(norm, stored[f"{kind}/{modality}/{name}_norm"]) < 1e-6
                for name, value in seen.items() if kind == "blocks" else ():
                    assert relative(sample(value, 256), stored[f"stage/{modality}/{name}"]) < 1e-6, name
        both = model.float().embed(images.float(), infrared=True)
        plain, mirrored = (model.embed(x.float(), infrared=True, flip=False) for x in (images, images.flip(-1)))
        torch.testing.assert_close(both, (plain + mirrored) / 2)
        assert relative(plain, stored["blocks/infrared/neck"]) < 1e-5


@pytest.mark.long
def test_a_training_step_matches():
    model, cfg = filled()
    stored = np.load(DATA / "train_sefel.npz")
    images, labels = image(77, 48, 96, 48, 8).float().double(), torch.from_numpy(stored["labels"])
    streams = zip(images.split(12), [*labels.split(12)] * 2, KINDS)
    output = model.train()(Batch([Stream(*stream) for stream in streams]))
    terms = build_loss(cfg)(output, epoch=0)
    for name, theirs, every in (
        ("pooled", "pooled", 8), ("neck", "neck", 8), ("logits", "logits", 1), ("erased_logits", "logits_erased", 1),
        ("part", "z", 4), ("shape_part", "shape/z", 4), ("shape_logits", "shape/logits", 1),
        ("teacher_part", "teacher/shape/z", 4), ("teacher_logits", "teacher/shape/logits", 1),
    ):
        assert relative(getattr(output, name)[0].detach()[:, ::every], stored[theirs]) < 1e-6, name
    weights = {"estimate": stored["w1"], "id_erased": stored["w2"], "mutual_erased": stored["w2"]}
    for name, term in {**terms, "total": sum(terms.values())}.items():
        expected = float(stored[f"loss/{name}"] * weights.get(name, 1))
        assert term.item() == pytest.approx(expected, rel=1e-6), name
    sum(terms.values()).backward()
    student = torch.nn.Module()
    student.authors_names, student.state_dict, student.named_parameters = model.authors_names, lambda: {
        name: value for name, value in model.state_dict().items() if name.startswith("student.")
    }, model.named_parameters
    shared = {key: stored[key] for key in stored if not key.startswith("after_step/")}
    check_after_backward(shared, json.loads((DATA / "train_sefel_gradient_norms.json").read_text()), student)
    state = {authors_name(name, model): value for name, value in student.state_dict().items()}
    moved = {key.removeprefix("after_step/") for key in {*stored} - {*shared}} & {*state}
    assert len(moved) > 20
    for key in moved:
        assert relative(state[key][:64], stored[f"after_step/{key}"]) < 1e-6, key


def test_the_importer_fills_both_networks_and_refuses_parts():
    model, _ = empty()
    theirs = state_of("")
    found = from_authors(theirs, model)
    used = {entry["key"] for entry in json.loads((DATA / KEYS).read_text()) if entry["used"]}
    assert {authors_name(name, model) for name in found if name.startswith("teacher.")} == used
    assert all(found[name] is found[name.replace("student.", "teacher.")] for name in found)
    check_trained(KEYS, model)
    without = {key: value for key, value in theirs.items() if key != "base_resnet.base.layer2.0.dsbn_ir.weight"}
    with pytest.raises(AuthorsCheckpointError, match="missing: base_resnet.base.layer2.0.dsbn_ir.weight"):
        from_authors(without, model)


def small(*overrides):
    cfg = load_config("configs/quickstart_sefel.yaml", ["MODEL.SEFEL.SHAPE_WIDTH", "16", *overrides])
    return build_model(cfg.MODEL, classes=3), cfg


def batch_of(rows=4, pasted=None):
    labels = torch.arange(rows) % 2
    return Batch([Stream(torch.randn(rows, 3, 64, 32), labels, kind) for kind in KINDS], pasted=pasted)


def test_every_parameter_of_the_trained_network_learns_and_none_of_the_teacher(thin):
    model, cfg = small()
    terms = build_loss(cfg)(model.train()(batch_of()), epoch=0)
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        learns = name.startswith("student.") and ".necks." not in name or name.endswith("weight") and "student" in name
        assert (parameter.grad is not None) == learns, name
    groups = model.parameter_groups(0.1, 0.1)
    heads = {id(p) for name, p in model.student.named_parameters() if name.startswith(("neck", "class", "sha", "proj"))}
    assert {id(p) for p in groups[0]["params"]} == {i for i in heads if i not in {
        id(neck.bias) for neck in model.student.necks.values()
    }}
    assert len(groups[0]["params"]) == 3 + 2 + 2


def test_a_mixed_batch_learns_by_the_share_of_pixels(thin):
    model, cfg = small("LOSS.SEFEL.MUTUAL_WEIGHT", "0", "LOSS.SEFEL.ORTHOGONAL_WEIGHT", "0")
    pasted = Pasted(torch.tensor([1, 2, 0, 1, 2, 2, 1, 0]), torch.tensor(0.75))
    output = model.train()(batch_of(pasted=pasted))
    terms = build_loss(cfg)(output, epoch=0)
    zero = {name for name, term in terms.items() if term == 0}
    assert zero == {"triplet", "estimate", "id_erased", "mutual_erased", "mutual", "orthogonal"}
    for name, logits in (("id", output.logits[0]), ("id_shape", output.shape_logits[0])):
        expected = 0.75 * F.cross_entropy(logits, output.labels) + 0.25 * F.cross_entropy(logits, pasted.labels)
        torch.testing.assert_close(terms[name], expected)
    assert terms.keys() == build_loss(cfg)(model(batch_of()), epoch=0).keys()


def test_the_teacher_follows_its_own_statistics_and_judges_without_gradient(thin):
    model, _ = small("MODEL.SEFEL.TEACHER_RATES", "[[0, 0.1], [3, 0.01]]")
    assert all(torch.equal(p, q) for p, q in zip(model.student.parameters(), model.teacher.parameters()))
    before = {name: p.clone() for name, p in model.teacher.named_parameters()}
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    for epoch, rate in ((0, 0.1), (4, 0.01)):
        model.after_update(epoch)
        for name, parameter in model.teacher.named_parameters():
            part = rate * (2 if name.startswith(("neck", "classifier", "shape_", "projection")) else 1)
            before[name] += part * (dict(model.student.named_parameters())[name] - before[name])
            torch.testing.assert_close(parameter, before[name])
    output = model.train()(batch_of())
    assert not output.teacher_logits.requires_grad and output.logits.requires_grad
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            assert module.num_batches_tracked == 1
    shared = model.student.stages[1][0].norms[0]
    assert len({norm.running_mean.sum().item() for norm in shared.values()}) == 3


def test_what_is_erased_lies_in_no_column(thin):
    model, _ = small()
    with torch.no_grad():
        model.student.classifier.weight.copy_(F.normalize(model.student.projection, dim=0).T[:3])
        model.student.projection.copy_(torch.linalg.qr(model.student.projection)[0])
        model.student.classifier.weight.copy_(model.student.projection.T[:3])
        output = model.train()(batch_of())
    assert output.logits.abs().max() > 0.1 and output.erased_logits.abs().max() < 1e-4


def test_mutual_learning_by_hand():
    visible, infrared = torch.tensor([[2.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 0.0]], requires_grad=True)
    says = SoftCrossEntropyLoss()(visible, infrared)
    assert says.item() == pytest.approx((0.126928 + 2.126928) / 2, rel=1e-5)  # -ln of 0.88, 0.12
    says.backward()
    assert visible.grad.tolist()[0] == pytest.approx([0.380797, -0.380797], rel=1e-4) and infrared.grad is None
    assert MutualLoss()(visible, infrared).item() == pytest.approx(says.item() + 0.693147, rel=1e-5)


def test_the_least_alike_of_the_same_person():
    visible = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    infrared = torch.tensor([[3.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
    labels = torch.tensor([5, 5, 8])
    of_visible, of_infrared = least_alike(visible, infrared, labels)
    assert of_visible.tolist() == [1, 0, 2] and of_infrared.tolist() == [1, 0, 2]
    logits = torch.randn(2, 3, 4)
    every = MutualLoss()(*logits, (visible, infrared), labels)
    h = SoftCrossEntropyLoss()
    further = h(logits[0], logits[1][of_visible]) + h(logits[1], logits[0][of_infrared])
    torch.testing.assert_close(every, MutualLoss()(*logits) + further)


def test_overlap_of_known_columns():
    columns = torch.tensor([[1.0, 0.6], [0.0, 0.8]])
    assert ColumnOverlapLoss()(columns).item() == pytest.approx(0.6)
    assert ColumnOverlapLoss()(torch.eye(4)[:, :3]) == 0


@pytest.mark.parametrize("balance, by", [("larger", (0, 1)), ("smaller", (1, 0)), ("none", None)])
def test_weights_by_gradients(balance, by, thin):
    model, cfg = small("LOSS.SEFEL.BALANCE", balance, "LOSS.SEFEL.ERASED_WEIGHT", "0.5")
    own = cfg.LOSS.SEFEL
    output, total = model.train()(batch_of()), build_loss(cfg)
    parts = total.parts(output, output.where(infrared=False), output.where(infrared=True))
    sizes = [
        torch.autograd.grad(loss, output.pooled, retain_graph=True)[0][0].norm(dim=1).mean()
        for loss in (parts[0], parts[1] + parts[2])
    ]
    expected = [2 * sizes[i] / sum(sizes) for i in by] if by else [1.0, 1.0]
    terms = total(output, epoch=0)
    torch.testing.assert_close(terms["estimate"], own.ESTIMATE_WEIGHT * expected[0] * parts[0])
    torch.testing.assert_close(terms["mutual_erased"], 0.5 * expected[1] * parts[2])


def test_more_than_one_view_is_refused():
    cfg = load_config("configs/quickstart_sefel.yaml", ["DATA.VISIBLE", "[['normalise'], ['normalise']]"])
    with pytest.raises(MethodError, match="sefel takes one view of each image, and DATA.VISIBLE has 2"):
        check_together(cfg, torch.device("cpu"))


def test_the_rate_falls_and_gradients_are_clipped_where_the_recipe_says():
    solver = load_config("configs/sysu_sefel.yaml").SOLVER
    rates = {0: 0.01, 9: 0.1, 19: 0.1, 20: 0.01, 84: 0.01, 85: 0.001, 119: 0.001}
    assert {epoch: rate_at(solver.BASE_LR, epoch, solver) for epoch in rates} == pytest.approx(rates)
    assert (solver.CLIP_NORM, solver.EPOCHS, solver.IDENTITIES, solver.IMAGES) == (11, 120, 8, 4)


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(shared_data, tmp_path, thin):
    words = ["train.py", "--config", "configs/quickstart_sefel.yaml", *SMALL, "DATA.ROOT", shared_data,
             "MODEL.SEFEL.SHAPE_WIDTH", "16", "LOSS.MIXED", "0.5", "OUTPUT"]
    run(*words, tmp_path / "whole", "SOLVER.EPOCHS", "2", drawn=False)
    run(*words, tmp_path / "parts", drawn=False)
    run(*words, tmp_path / "parts", "SOLVER.EPOCHS", "2", "--resume", drawn=False)
    whole, parts = (read_own_checkpoint(tmp_path / name / "last.pth") for name in ("whole", "parts"))
    assert whole["epoch"] == parts["epoch"] == 2
    for name, value in whole["model"].items():
        assert torch.equal(parts["model"][name], value), name
        if name.endswith("weight") and name.startswith("teacher."):
            assert not torch.equal(value, whole["model"][name.replace("teacher.", "student.")]), name


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_a_step_is_as_long_as_the_clipped_gradient(most, thin):
    """Of plain SGD, in which the step is the gradient."""
    model, cfg = small("SOLVER.CLIP_NORM", str(most), "SOLVER.OPTIMIZER", "sgd", "SOLVER.WEIGHT_DECAY", "0")
    update = Update(cfg, model.train(), build_loss(cfg), torch.device("cpu"))
    for group in update.optimizer.param_groups:
        group["lr"] = 1e-3
    before = torch.cat([p.detach().flatten() for p in model.student.parameters()])
    update([batch_of()], 0, 0, False)
    moved = torch.cat([p.detach().flatten() for p in model.student.parameters()]) - before
    step = moved.norm().item() / 1e-3 / (1 + cfg.SOLVER.MOMENTUM)              # Nesterov's first step
    length = torch.cat([p.grad.flatten() for p in update.trained]).norm().item()
    assert step == pytest.approx(length, rel=1e-2) and (length == pytest.approx(0.5, rel=1e-3) or most > 1 < length)
