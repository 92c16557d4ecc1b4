"""MPANet against its authors' arithmetic: weights and images by rule, outputs, losses and gradients stored."""

import json

import numpy as np
import pytest
import torch
from batches import two_streams
from programs import run
from reference import DATA, baseline_state, check_trained, image, nothing_drawn, recorded, relative, sample, weight
from torch import nn

from assembly.recipe import build_loss
from common.batch import Kind, Output, Rows
from configs.load import load_config
from losses.center_cluster import CenterClusterLoss
from losses.mutual_mean import MutualMeanLoss
from models.authors_checkpoint import AuthorsCheckpointError, authors_name, from_authors
from models.build import build_model
from models.mpanet import ModalityAlleviation, MPANet, overlap, running_rate
from utils.training.optimizer import build_optimizer, rate_at

KEYS = "keys_mpanet.json"
ALONE = json.loads((DATA / "losses_mpanet.json").read_text())


@pytest.fixture(scope="module")
def theirs():
    state = baseline_state(KEYS, "backbone.layer4")
    return state | {"spatial_attention.weight": 0.5 * state["spatial_attention.weight"]}


def empty(*overrides):
    cfg = load_config("configs/sysu_mpanet.yaml", ["MODEL.PRETRAINED", "none", *overrides])
    return build_model(cfg.MODEL, 395), cfg


def filled(theirs):
    with nothing_drawn():
        model, cfg = empty()
    model.load_state_dict(from_authors(theirs, model))
    return model.double(), cfg


def watch(model):
    named = {"stem": model.stem, "mam3": model.alleviate3, "mam4": model.alleviate4}
    named |= {f"layer{i}": stage for i, stage in enumerate(model.stages, start=1)}
    return recorded(named)


def check_stages(stored, seen):
    for name, value in seen.items():
        assert relative(sample(value, 256), stored[f"stage/{name}"]) < 1e-6, name
    assert len(seen) == 7


def test_evaluation_matches(theirs, whole):
    model, _ = filled(theirs)
    stored, seen = np.load(DATA / "eval_mpanet.npz"), watch(model.eval())
    sizes = [(256, 128), (384, 128)] if whole else [(384, 128)]
    kinds = {"noise": 1, "blocks": 16} if whole else {"blocks": 16}
    with torch.inference_mode():
        for height, width in sizes:
            for kind, block in kinds.items():
                images, at = image(1234, 2, height, width, block).float().double(), f"{height}x{width}/{kind}"
                last = model.encode(images)
                masks = model.masks_of(last)
                pooled = model.pool(last, masks)
                for name, features in (("pooled", pooled), ("neck", model.neck(pooled))):
                    norm = features.norm(dim=1)
                    assert relative((features / norm[:, None])[:, ::8], stored[f"{at}/{name}"]) < 1e-6
                    assert relative(norm, stored[f"{at}/{name}_norm"]) < 1e-6
        check_stages(stored, seen)
        assert relative(masks, stored["masks"]) < 1e-6
        embedded = model.float().embed(images.float(), infrared=True, flip=False)
        assert relative(embedded[:, ::8], stored["384x128/blocks/neck"]) < 1e-5
        assert torch.equal(embedded, model.embed(images.float(), infrared=False, flip=False))


def step(model, total, batch):
    model.before_update(0)
    output = model(batch)
    terms = total(output, epoch=0)
    sum(terms.values()).backward()
    return output, terms


def check_losses(stored, prefix, terms):
    weights = {"separation": 0.5, "id_visible": 1.0, "id_infrared": 1.0, "mutual": 2.5}
    for name, term in {**terms, "total": sum(terms.values())}.items():
        assert term.item() == pytest.approx(float(stored[f"{prefix}loss/{name}"]), rel=1e-6), name
        if name in weights:
            alone = float(stored[f"{prefix}loss/{name}_unweighted"])
            assert term.item() / weights[name] == pytest.approx(alone, rel=1e-6)


@pytest.mark.long
def test_two_training_steps_match(theirs):
    """Running means that move before they are used, gradients, and what Adam makes of them."""
    model, cfg = filled(theirs)
    total, stored = build_loss(cfg), np.load(DATA / "train_mpanet.npz")
    optimizer = build_optimizer(model.parameter_groups(cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_LR_FACTOR), cfg.SOLVER)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    images = image(77, 24, 96, 48, 8).float().double()
    batch = two_streams(images[:12], images[12:], stored["labels"].tolist())
    seen = watch(model.train())
    output, terms = step(model, total, batch)

    check_stages(stored, seen)
    check_losses(stored, "", terms)
    for name, ours, every in (
        ("pooled", "pooled", 64), ("neck", "neck", 64), ("logits/id", "logits", 1), ("logits/own", "own_logits", 1),
        ("logits/other_mean", "other_logits", 1),
    ):
        assert relative(getattr(output, ours)[0].detach()[:, ::every], stored[name]) < 1e-6, name
    state = {authors_name(key, model): value for key, value in model.state_dict().items()}
    norms = json.loads((DATA / "train_mpanet_gradient_norms.json").read_text())
    gradients = {authors_name(key, model): p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert set(norms) == set(gradients)
    for name, norm in norms.items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-6), name
    for key in stored:
        kind, _, name = key.partition("/")
        if kind == "gradient":
            assert relative(sample(gradients[name], 256), stored[key]) < 1e-6, key
        elif kind == "after_step":
            assert relative(sample(state[name], 256), stored[key]) < 1e-6, key
        elif kind == "mean_classifier":
            assert relative(sample(state[f"{name}.weight"], 256), stored[key]) < 1e-6, key

    optimizer.step()
    optimizer.zero_grad()
    output, terms = step(model, total, batch)
    check_losses(stored, "step2/", terms)
    assert relative(output.logits[0, :4].detach(), stored["step2/logits/id"]) < 1e-6
    optimizer.step()
    state = {authors_name(key, model): value for key, value in model.state_dict().items()}
    moved = {authors_name(key, model): (p.detach() - start[key]) / 3.5e-4 for key, p in model.named_parameters()}
    for key in stored:
        if key.startswith("step2/mean_classifier/"):
            assert relative(sample(state[f"{key.rpartition('/')[2]}.weight"], 256), stored[key]) < 1e-6, key
        elif key.startswith("step2/change/"):
            assert relative(sample(moved[key.removeprefix("step2/change/")], 256), stored[key]) < 1e-6, key


def case_of(name):
    case = ALONE[name]
    labels, infrared = torch.tensor(case["labels"]), torch.tensor(case["infrared"], dtype=torch.bool)
    return case, labels, infrared


@pytest.mark.parametrize("scale", [*ALONE["balanced"]["terms"]])
@pytest.mark.parametrize("name", ["balanced", "uneven"])
def test_losses_alone_match(name, scale):
    case, labels, infrared = case_of(name)
    stored = case["terms"][scale]
    random = np.random.RandomState(11)
    rows, centers = random.standard_normal((len(labels), 64)), random.standard_normal((100, 64))
    features = torch.from_numpy(float(scale) * (rows + 1.5 * centers[labels])).requires_grad_()

    order = torch.argsort(infrared.int(), stable=True)  # of an output, visible rows come first
    sizes = [int((~infrared).sum()), int(infrared.sum())]
    neck = nn.BatchNorm1d(64).double()
    classifiers = {
        key: torch.from_numpy(weight(f"{key}.weight", (20, 64)).astype(np.float32)).double()
        for key in ("classifier", "visible_classifier", "infrared_classifier", "visible_classifier_",
                    "infrared_classifier_")
    }
    with torch.no_grad():
        for key in ("weight", "bias"):
            getattr(neck, key).copy_(torch.from_numpy(weight(f"bn_neck.{key}", (64,)).astype(np.float32)))
        for modality in ("visible", "infrared"):
            classifiers[f"{modality}_classifier_"].lerp_(classifiers[f"{modality}_classifier"], 0.2)
    own = [classifiers[f"{m}_classifier"].requires_grad_() for m in ("visible", "infrared")]
    n = neck(features)[order]
    visible, thermal = n.split(sizes)
    other = torch.cat([
        visible.detach() @ classifiers["infrared_classifier_"].T,
        thermal.detach() @ classifiers["visible_classifier_"].T,
    ])
    entries = {
        "pooled": features[order], "logits": n @ classifiers["classifier"].T,
        "own_logits": torch.cat([visible @ own[0].T, thermal @ own[1].T]), "other_logits": other,
        "overlap": features.new_zeros(len(labels)),
    }
    output = Output(
        Rows(labels[order], sizes, [Kind(False), Kind(True)]), **{key: entry[None] for key, entry in entries.items()},
    )
    terms = build_loss(load_config("configs/sysu_mpanet.yaml"))(output, epoch=0)
    terms["id_modality"] = terms["id_visible"] + terms["id_infrared"]
    terms["total"] = sum(terms[key] for key in ("id", "center_cluster", "id_modality", "mutual"))
    for key in ("center_cluster", "id", "id_modality", "mutual", "total"):
        expected = stored[key]
        assert terms[key].item() == pytest.approx(expected["value"], rel=1e-6), key
        gradient, *of_classifiers = torch.autograd.grad(
            terms[key], [features, *own], retain_graph=True, allow_unused=True
        )
        assert gradient.norm().item() == pytest.approx(expected["gradient_norm"], rel=1e-6), key
        assert relative(gradient[0, :4], expected["gradient_row0_first4"]) < 1e-6, key
        for modality, of_one in zip(("visible", "infrared"), of_classifiers):
            if f"gradient_norm_{modality}_classifier" in expected:
                assert of_one.norm().item() == pytest.approx(expected[f"gradient_norm_{modality}_classifier"], rel=1e-6)


def test_divergence_separation_alleviation_and_rate_alone_match(theirs):
    random = np.random.RandomState(12)
    own = torch.from_numpy(3 * random.standard_normal((10, 20))).requires_grad_()
    value = MutualMeanLoss()(own, torch.from_numpy(3 * random.standard_normal((10, 20))))
    value.backward()
    stored = ALONE["divergence"]
    assert value.item() == pytest.approx(stored["value"], rel=1e-6)
    assert own.grad.norm().item() == pytest.approx(stored["gradient_norm"], rel=1e-6)

    assert all(running_rate(int(epoch)) == pytest.approx(rate) for epoch, rate in ALONE["mean_rate"].items())

    with torch.device("meta"):
        model, _ = empty()
    convolution = nn.Conv2d(2048, 6, 1).double()
    model.masks = convolution
    with torch.no_grad():
        for part in ("weight", "bias"):
            getattr(convolution, part).copy_(theirs[f"spatial_attention.{part}"])
    maps = torch.from_numpy(np.abs(np.random.RandomState(13).standard_normal((4, 2048, 5, 3))))
    masks, stored = model.masks_of(maps), ALONE["separation"]
    overlap(masks).mean().backward()
    assert overlap(masks).mean().item() == pytest.approx(stored["value"], rel=1e-6)
    assert convolution.weight.grad.norm().item() == pytest.approx(stored["gradient_norm_weight"], rel=1e-6)
    assert relative(convolution.bias.grad, stored["gradient_bias"]) < 1e-6
    pooled = model.pool(maps, masks).detach()
    assert relative(pooled[0, ::2048], stored["pooled_row0_first_of_each_part"]) < 1e-6
    assert pooled.norm().item() == pytest.approx(stored["pooled_norm"], rel=1e-6)

    for scale in ("1", "0.003"):
        block = ModalityAlleviation(64).double()
        with torch.no_grad():
            for conv, number in ((block.reduce, 0), (block.expand, 2)):
                key = f"backbone.MAM3.channel_attention.{number}.weight"
                conv.weight.copy_(torch.from_numpy(weight(key, tuple(conv.weight.shape)).astype(np.float32)))
        x = torch.from_numpy(np.random.RandomState(14).standard_normal((2, 64, 5, 3))) * float(scale)
        y = block(x).detach()
        assert y.norm().item() == pytest.approx(ALONE["mam"][scale]["norm"], rel=1e-6)
        assert relative(y[0, 0].flatten(), ALONE["mam"][scale]["row0_channel0"]) < 1e-6


def test_the_importer_takes_the_whole_and_refuses_parts(theirs):
    with nothing_drawn():
        model, _ = empty()
    assert {authors_name(key, model) for key in from_authors(theirs, model)} == set(theirs)
    check_trained(KEYS, model)
    without = {key: value for key, value in theirs.items() if key != "visible_classifier_.weight"}
    with pytest.raises(AuthorsCheckpointError, match="missing: visible_classifier_.weight"):
        from_authors(without, model)


def test_the_mean_classifiers_start_as_the_trained_ones_and_are_no_parameters(thin):
    cfg = load_config("configs/quickstart_mpanet.yaml")
    model = build_model(cfg.MODEL, classes=3)
    assert torch.equal(model.visible_mean, model.visible_classifier.weight)
    assert not {"visible_mean", "infrared_mean"} & {name for name, _ in model.named_parameters()}
    with torch.no_grad():
        model.visible_classifier.weight.add_(1)
    before = model.visible_mean.clone()
    model.before_update(0)
    torch.testing.assert_close(model.visible_mean, before + 0.2)


def test_centres_of_two_known_people():
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 0.5], [1.0, 0.5]], dtype=torch.float64)
    loss = CenterClusterLoss(margin=0.7)(features, torch.tensor([7, 7, 8, 8]), torch.tensor([0, 1, 0, 1]).bool())
    assert loss.item() == pytest.approx(0.5 + 0.2)  # rows 1, 1, 0, 0 from their centres, which are 0.5 apart


def test_the_overlap_of_masks_that_are_written_down():
    masks = torch.rand(2, 6, 3, 2, dtype=torch.float64)
    pairs = sum((masks[:, i] * masks[:, j]).sum(dim=(1, 2)) for i in range(6) for j in range(i + 1, 6))
    torch.testing.assert_close(overlap(masks), pairs / 15)


def test_the_rate_falls_where_the_recipe_says():
    solver = load_config("configs/sysu_mpanet.yaml").SOLVER
    rates = {epoch: rate_at(solver.BASE_LR, epoch, solver) for epoch in (0, 79, 80, 119, 120)}
    assert rates == pytest.approx({0: 3.5e-4, 79: 3.5e-4, 80: 3.5e-5, 119: 3.5e-5, 120: 3.5e-6})
    assert MPANet.options.keys() == {"BACKBONE", "MPANET.RANKING"}


def test_ranking_by_distance_is_that_of_the_features_as_long_as_they_are():
    cfg = load_config("configs/quickstart_mpanet.yaml", ["MODEL.MPANET.RANKING", "distance"])
    model = build_model(cfg.MODEL, classes=3).eval()
    images = [torch.randn(number, 3, 64, 32) for number in (3, 5)]
    with torch.inference_mode():
        model.neck.weight.uniform_(0.5, 2)
        neck = [model.neck(model.pool(last, model.masks_of(last))) for last in map(model.encode, images)]
        scale = model.column_scale("neck")
        visible, infrared = (model.embed(part, kind, flip=False) * scale for part, kind in zip(images, (False, True)))
    assert visible.shape == (3, model.neck.num_features + 2)
    torch.testing.assert_close(visible @ infrared.T, -torch.cdist(*neck).square() / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("program, option", [
    ("test.py --checkpoint {run} --output {tmp}/r.json", "TEST.RERANK True"),
    ("test.py --checkpoint {run} --output {tmp}/r.json", "EMBEDDING.DIM 2"),
    ("scripts/search.py --checkpoint {run} --gallery {data}/cam1 --query {data}/cam3 --output {tmp}", ""),
    ("scripts/export.py --checkpoint {run} --format torchscript --output {tmp}/network.ts", ""),
    ("scripts/visualize.py {run} --parts map --output {tmp}", ""),
])
def test_ranking_by_distance_is_between_modalities_alone(program, option, trained, shared_data, tmp_path):
    words = program.format(run=trained("quickstart_mpanet"), data=shared_data, tmp=tmp_path).split()
    done = run(*words, "MODEL.MPANET.RANKING", "distance", *option.split(), check=False)
    assert done.returncode == 1 and "with MODEL.MPANET.RANKING distance, embeddings compare" in done.stderr, done.stderr


def test_a_run_is_tested_by_distance(trained, tmp_path):
    run("test.py", "--checkpoint", trained("quickstart_mpanet"), "--output", tmp_path / "results.json",
        "MODEL.MPANET.RANKING", "distance")
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["distances"] is None and saved["config"]["MODEL"]["MPANET"]["RANKING"] == "distance"
    assert "of the other modality alone" in (tmp_path / "report.html").read_text()
