"""MCLNet against its authors' arithmetic: weights and images by rule, outputs, losses and gradients stored."""

import json

import numpy as np
import programs
import pytest
import torch
from reference import DATA, baseline_state, check_after_backward, image, nothing_drawn, relative, sample, weight
from torch.utils._pytree import tree_leaves

from assembly.adversary import AdversarySteps
from assembly.recipe import build_loss, build_network, train_batches
from assembly.timed_step import drawn_batch
from assembly.update import NonFiniteTerms, Update
from common.batch import Batch, Kind, Stream
from configs.load import load_config
from data.dataset import open_data
from losses.center_aggregation import CenterAggregationLoss
from models.authors_checkpoint import from_authors
from models.build import build_model
from models.mclnet import Centers
from models.network import MethodError
from utils.training.checkpoint import read_own_checkpoint

ALONE = json.loads((DATA / "losses_mclnet.json").read_text())["mcca"]
OWN = {  # of what their checkpoints lack
    "discriminator.map1.weight": (128, 2048), "discriminator.map1.bias": (128,),
    "discriminator.map3.weight": (2, 128), "discriminator.map3.bias": (2,),
    "discriminator.bn.weight": (2,), "discriminator.bn.bias": (2,),
    "discriminator.bn.running_mean": (2,), "discriminator.bn.running_var": (2,),
    "identity.centers": (395, 2048), "camera.centers": (6, 2048),
}


def filled():
    cfg = load_config("configs/sysu_mclnet.yaml", ["MODEL.PRETRAINED", "none", "MODEL.MCLNET.DISCRIMINATOR_LR", "0.01"])
    with nothing_drawn():
        model = build_model(cfg.MODEL, 395)
    drawn = {key: weight(key, shape) * (2048 ** 0.5 if "centers" in key else 1) for key, shape in OWN.items()}
    own = {key: torch.from_numpy(value).float() for key, value in drawn.items()}
    own["discriminator.bn.num_batches_tracked"] = torch.tensor(0)
    theirs = baseline_state("keys_agw.json", "base_resnet.base.layer4")
    model.load_state_dict(from_authors(theirs | own, model))
    return model.double().train(), cfg


def test_a_training_step_matches():
    model, cfg = filled()
    stored = np.load(DATA / "train_mclnet.npz")
    images = image(77, 24, 96, 48, 8).float().double().split(12)
    labels, cameras = (torch.from_numpy(stored[name]).split(12) for name in ("labels", "cameras"))
    output = model(Batch([Stream(images[i], labels[i], Kind(bool(i)), cameras[i]) for i in range(2)]))
    for name, every in (("pooled", 8), ("neck", 8), ("logits", 1)):
        assert relative(getattr(output, name)[0].detach()[:, ::every], stored[name]) < 1e-6, name
    assert relative(output.judged[0].detach(), stored["discriminator/logits"]) < 1e-6

    steps = AdversarySteps(model.adversary, cfg.SOLVER)
    loss = steps(output)["adversary"]
    assert loss.item() == pytest.approx(float(stored["loss/discriminator"]), rel=1e-6)
    names = dict(zip(("map1", "map3", "bn"), (*model.adversary.layers, model.adversary.norm)))
    for name, module in names.items():
        for part, parameter in module.named_parameters():
            key = f"{name}.{part}"
            norm = float(stored[f"discriminator/gradient_norm/{key}"])
            assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-6, abs=1e-12), key
            assert relative(sample(parameter.detach(), 256), stored[f"discriminator/after/{key}"]) < 1e-6, key

    gradient, = torch.autograd.grad(build_loss(cfg)(output, 0)["confusion"], output.pooled, retain_graph=True)
    assert gradient.norm().item() == pytest.approx(float(stored["confusion_gradient_norm"]), rel=1e-6)
    assert relative(gradient[0, :2, :64], stored["confusion_gradient"]) < 1e-6
    terms = build_loss(cfg)(output, 0)
    gradient, = torch.autograd.grad(terms["mcca_id"] + terms["mcca_camera"], output.neck, retain_graph=True)
    assert gradient.norm().item() == pytest.approx(float(stored["mcca_gradient_norm"]), rel=1e-6)
    for name, term in {**terms, "total": sum(terms.values())}.items():
        assert term.item() == pytest.approx(float(stored[f"loss/{name}"]), rel=1e-6), name
    steps.optimizer.zero_grad()
    sum(terms.values()).backward()
    assert all(parameter.grad is None for parameter in model.adversary.parameters())
    check_after_backward({}, json.loads((DATA / "train_mclnet_gradient_norms.json").read_text()), model)


@pytest.mark.parametrize("case", ALONE, ids=lambda case: str(case["seed"]))
def test_centre_aggregation_alone_matches_in_any_order_of_rows(case):
    labels, random = torch.tensor(case["labels"]), np.random.RandomState(case["seed"])
    centers = Centers(395 if case["kind"] == "id" else 6, 2048)
    centers.points = torch.from_numpy(random.standard_normal(centers.points.shape))
    features = torch.from_numpy(case["scale"] * random.standard_normal((len(labels), 2048))).requires_grad_()
    loss = CenterAggregationLoss(rows=8 if case["kind"] == "id" else 0)
    value = loss(*centers(features, labels), labels)
    value.backward()
    assert value.item() == pytest.approx(case["value"], rel=1e-6)
    assert features.grad.norm().item() == pytest.approx(case["gradient_norm"], rel=1e-6)
    order = torch.randperm(len(labels))
    assert loss(*centers(features[order], labels[order]), labels[order]).item() == pytest.approx(case["value"])


SMALL = [
    "DATA.HEIGHT", "32", "DATA.WIDTH", "16", "SOLVER.IDENTITIES", "2", "SOLVER.IMAGES", "2", "SOLVER.BASE_LR", "0.001",
    "DATA.WORKERS", "0", "DEVICE", "cpu",
]


def small(*overrides):
    return load_config("configs/quickstart_mclnet.yaml", [*SMALL, *overrides])


def update_of(*overrides):
    cfg = small(*overrides)
    model = build_network(cfg, 3).train()
    update = Update(cfg, model, build_loss(cfg), torch.device("cpu"))
    update.set_rate(0)
    return update, drawn_batch(cfg, 2, 2)


def state_of(update):
    leaves = tree_leaves((update.model.state_dict(), update.state_dict()))
    return [t.clone() for t in leaves if torch.is_tensor(t) and t.is_floating_point()]


def test_the_discriminator_learns_by_its_own_optimiser_alone(thin):
    update, batch = update_of("MODEL.MCLNET.DISCRIMINATOR_LR", "0.002", "SOLVER.PRECISION", "bfloat16")
    own = {*update.model.adversary.parameters()}
    trained = {p for group in update.optimizer.param_groups for p in group["params"]}
    assert not own & trained and own | trained == {p for p in update.model.parameters() if p.requires_grad}
    centers = update.model.identity_centers.points.clone()
    before = [parameter.detach().clone() for parameter in update.model.adversary.layers.parameters()]
    losses = [update([batch], epoch, 0, False)[0]["adversary"] for epoch in range(12)]
    assert update.set_rate(6) < update.set_rate(0) and update.adversary.optimizer.param_groups[0]["lr"] == 0.002
    assert losses[-1] < losses[0]
    assert any(not torch.equal(old, new) for old, new in zip(before, update.model.adversary.layers.parameters()))
    assert torch.equal(update.model.identity_centers.points, centers)


def test_it_takes_a_step_in_each_of_several_batches_of_an_update(thin, monkeypatch):
    update, batch = update_of()
    step, taken = update.adversary.optimizer.step, []
    monkeypatch.setattr(update.adversary.optimizer, "step", lambda: taken.append(1) or step())
    terms, _ = update([batch] * 3, 0, 0, False)
    assert len(taken) == 3
    assert terms["total"] == pytest.approx(sum(terms.values()) - terms["total"] - terms["adversary"], rel=1e-5)


@pytest.mark.parametrize("first", [True, False], ids=["at once", "later"])
@pytest.mark.parametrize("broken", ["total", "adversary"])
def test_a_step_of_no_finite_loss_leaves_the_discriminator_as_it_was(broken, first, thin, monkeypatch):
    update, batch = update_of()
    if not first:
        update([batch], 0, 0, False)
    before = state_of(update)
    if broken == "adversary":
        judge = update.model.adversary.judge
        monkeypatch.setattr(update.model.adversary, "judge", lambda output, learn: judge(
            output, lambda loss: learn(loss * torch.inf)
        ))
    else:
        monkeypatch.setattr(update, "total", lambda output, epoch: {"id": output.judged.sum() * torch.nan})
    with pytest.raises(NonFiniteTerms, match="adversary inf" if broken == "adversary" else "id nan"):
        update([batch], 0, 1, False)
    assert all(map(torch.equal, state_of(update), before))


def test_a_resumed_training_equals_an_uninterrupted_one(thin, shared_data, tmp_path):
    def train(folder, epochs, *flags):
        programs.run("train.py", "--config", "configs/quickstart_mclnet.yaml", *flags, *SMALL, "DATA.ROOT", shared_data,
                     "OUTPUT", folder, "SOLVER.EPOCHS", epochs, drawn=False)
        return read_own_checkpoint(folder / "last.pth")

    whole, half = train(tmp_path / "whole", "2"), train(tmp_path / "parts", "1")
    parts = train(tmp_path / "parts", "2", "--resume")
    for name in ("model", "optimizer", "adversary"):
        pairs = [*zip(tree_leaves(whole[name]), tree_leaves(parts[name]), strict=True)]
        assert len(pairs) > 6 and all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in pairs), name
    name = "adversary.layers.0.weight"
    assert not torch.equal(half["model"][name], whole["model"][name])


def test_cameras_are_numbered_and_more_than_the_network_knows_are_refused(shared_data):
    cfg = small("DATA.ROOT", str(shared_data))
    records = open_data(cfg.DATA).train
    batches = train_batches(cfg, records)
    batch, drawn = batches[0, 0], batches.sampler.batch(0, 0)
    assert sorted({r.camera for r in records}) == [1, 2, 3, 4, 5, 6]
    assert batch.cameras.tolist() == [records[row].camera - 1 for part in drawn for row in part.rows]
    cfg = small("DATA.ROOT", str(shared_data), "MODEL.MCLNET.CAMERAS", "5")
    with pytest.raises(MethodError, match="images are of 6 cameras, and MODEL.MCLNET.CAMERAS is 5: set it to 6"):
        train_batches(cfg, records)


def test_a_compiled_pass_has_what_the_discriminator_says_of_it(thin):
    cfg = small()
    model, batch = build_network(cfg, 3).train(), drawn_batch(cfg, 2, 2)
    plain = model(batch)
    model.compile(backend="eager")
    with torch._dynamo.config.patch(suppress_errors=False):
        compiled = model(batch)
    torch.testing.assert_close(compiled.judged, plain.judged)
    torch.testing.assert_close(compiled.camera_gap, plain.camera_gap)
