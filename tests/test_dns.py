"""DNS against its authors' arithmetic: weights and images by rule, outputs, losses and gradients stored."""

import json

import numpy as np
import pytest
import torch
from batches import output_of, two_streams
from reference import (
    DATA,
    baseline_state,
    check_features,
    check_trained,
    image,
    nothing_drawn,
    recorded,
    relative,
    sample,
    unwritten_state,
    weight,
)
from torch.nn import functional as F

from assembly.recipe import build_loss
from configs.load import load_config
from data.transforms import read_step
from losses.circle import CircleLoss
from losses.mmd import MMDLoss
from models.authors_checkpoint import AuthorsCheckpointError, authors_name, from_authors
from models.build import build_model
from models.dns import each_by
from models.parts.domain_shift import CSS, HSS
from utils.evaluation.metrics import inner_products
from utils.training.optimizer import build_optimizer, part_of_epoch, rate_at

KEYS = "keys_dns.json"
ALONE = json.loads((DATA / "losses_dns.json").read_text())


@pytest.fixture(scope="module")
def theirs(whole):
    """All weights, or those of an embedding: the rest are more than half of them."""
    return baseline_state(KEYS, "base.base.layer4", *([] if whole else ["used_at_test"]))


def empty(*overrides):
    cfg = load_config("configs/sysu_dns.yaml", ["MODEL.PRETRAINED", "none", "MODEL.DNS.DROPOUT", "0", *overrides])
    return build_model(cfg.MODEL, 395), cfg


def filled(theirs):
    with nothing_drawn():
        model, cfg = empty()
    model.load_state_dict(from_authors(theirs, model))
    return model.double(), cfg


def watch(model):
    trunk = model.backbone
    named = {
        "layer2_visible": trunk.visible_stem, "layer2_infrared": trunk.infrared_stem, "layer3": trunk.stages[0],
        "hss3": model.shift3, "layer4": trunk.stages[1], "hss4": model.shift4,
    }
    return recorded(named)


def check_maps(stored, seen, names):
    for name in names:
        assert relative(sample(seen[name], 256), stored[f"stage/{name}"]) < 1e-6, name


MAPS = ("layer2_visible", "layer2_infrared", "layer3", "hss3", "layer4", "hss4")


def test_evaluation_matches(theirs, whole):
    """Features of both modalities, and the embedding, of which the lengths count, too."""
    model, _ = filled(theirs)
    stored, seen = np.load(DATA / "eval_dns.npz"), watch(model.eval())
    with torch.inference_mode():
        for kind, block in {"noise": 1, "blocks": 24}.items() if whole else [("blocks", 24)]:
            images = image(1234, 2, 288, 144, block).float().double()
            for modality in ("infrared", "visible"):
                infrared, at = modality == "infrared", f"{kind}/{modality}"
                pooled, neck = model.head.features(model.encode(model.stem_map(images, infrared)))
                check_features(stored, at, pooled[None], neck[None])
                if kind == "blocks":
                    check_maps(stored, seen, MAPS[1:2] if infrared else (MAPS[0], *MAPS[2:]))
                if whole or infrared:
                    embedded = model.embed(images, infrared)
                    assert relative(embedded[:, 2048:], stored[f"{at}/embedding"]) < 1e-6
                    columns = embedded * model.column_scale("neck")
                    assert torch.equal(inner_products(columns, columns), embedded[:, 2048:] @ embedded[:, 2048:].T)


def step(model, total, batch):
    model.before_update(99)
    output = model(batch)
    terms = total(output, epoch=99)
    sum(terms.values()).backward()
    return output, terms


def check_losses(stored, prefix, terms):
    for name, term in {**terms, "total": sum(terms.values())}.items():
        assert term.item() == pytest.approx(float(stored[f"{prefix}loss/{name}"]), rel=1e-6), name
    assert len(terms) == 4


def check_means(stored, prefix, model):
    state = {authors_name(key, model): value for key, value in model.state_dict().items()}
    for modality in ("visible", "infrared"):
        name = f"{modality}_classifier_"
        assert relative(sample(state[f"DD.{name}.weight"], 256), stored[f"{prefix}mean_classifier/{name}"]) < 1e-6


@pytest.mark.long
def test_two_training_steps_match(theirs):
    """Running means that move before they are used, gradients, and rates by part that look one update back."""
    model, cfg = filled(theirs)
    solver, total, stored = cfg.SOLVER, build_loss(cfg), np.load(DATA / "train_dns.npz")
    optimizer = build_optimizer(model.parameter_groups(solver.BASE_LR, solver.BACKBONE_LR_FACTOR), solver)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    images = image(77, 16, 96, 48, 8).float().double()
    batch = two_streams(images[:8], images[8:], stored["labels"].tolist())
    seen = watch(model.train())
    for update in range(2):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(group["base_lr"], 99, solver, part_of_epoch(update, 10, solver))
        optimizer.zero_grad()
        output, terms = step(model, total, batch)
        check_losses(stored, "step2/" if update else "", terms)
        check_means(stored, "step2/" if update else "", model)
        if update == 0:
            check_maps(stored, seen, MAPS)
            for name, entry in (("pooled", output.pooled), ("neck", output.neck), ("css", output.shifted)):
                assert relative(entry[0].detach()[:, ::8], stored[name]) < 1e-6, name
            for i, name in enumerate(("neck", "css")):
                assert relative(output.own_logits[i].detach(), stored[f"logits/own_{name}"]) < 1e-6, name
                assert relative(output.other_logits[i], stored[f"logits/other_{name}"]) < 1e-6, name
            assert relative(output.logits[0].detach(), stored["logits/id"]) < 1e-6
            check_gradients(stored, model)
        optimizer.step()
    moved = {authors_name(key, model): p.detach() - start[key] for key, p in model.named_parameters()}
    for key in stored:
        name = key.removeprefix("step2/change/")
        if name != key and name.startswith("base.base.layer1."):
            assert not stored[key].any() and name not in moved  # stages that are not there
        elif name != key:
            assert relative(sample(moved[name], 256), stored[key]) < 1e-6, key


def check_gradients(stored, model):
    norms = json.loads((DATA / "train_dns_gradient_norms.json").read_text())
    state = {authors_name(key, model): value for key, value in model.state_dict().items()}
    gradients = {authors_name(key, model): p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert {*norms} == {*gradients} and len(norms) == 252
    for name, norm in norms.items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-6), name
    for key in stored:
        kind, _, name = key.partition("/")
        if kind == "gradient":
            assert relative(sample(gradients[name], 256), stored[key]) < 1e-6, key
        if kind == "after_step":
            assert relative(state[name][:64], stored[key]) < 1e-6, key


# --- Alone ------------------------------------------------------------------------------------------------------------

def by_rule(key, *shape):
    return torch.from_numpy(weight(key, shape).astype(np.float32)).double()


def features_of(case):
    """f and g by the file's rule, labels, and which rows are infrared."""
    random = np.random.RandomState(case["seed"])
    people, images = case["P"], case["K"]
    number = 2 * people * images
    noise, centers, other = (random.standard_normal((n, 64)) for n in (number, 100, number))
    if case["opposed"]:
        centers[3] = -centers[7]
    labels = np.tile(np.repeat([7, 3, 11, 40, 52, 60][:people], images), 2)
    f = case["scale"] * (noise + case["mix"] * centers[labels])
    f, g = torch.from_numpy(f), torch.from_numpy(f + 0.7 * other)
    return f.requires_grad_(), g.requires_grad_(), torch.from_numpy(labels), torch.arange(number) >= number // 2


def check_alone(expected, value, f, g, others=()):
    gradients = torch.autograd.grad(value, [f, g, *others], allow_unused=True)
    assert value.item() == pytest.approx(expected["value"], rel=1e-6)
    for name, gradient in zip("fg", gradients):
        if f"grad_norm_{name}" in expected:
            assert gradient.norm().item() == pytest.approx(expected[f"grad_norm_{name}"], rel=1e-6)
            assert gradient[0, :4].tolist() == pytest.approx(expected[f"grad_first_{name}"], rel=1e-6, abs=1e-15)
    for name, gradient in zip("VI", gradients[2:]):
        assert gradient.norm().item() == pytest.approx(expected[f"grad_norm_{name}"], rel=1e-6)


@pytest.mark.parametrize("case", ALONE["cases"], ids=lambda case: f"seed{case['seed']}")
def test_losses_alone_match(case):
    """By the total, on features that are f before and after the neck, and g of CSS; and two MMDs."""
    f, g, labels, infrared = features_of(case)
    visible_rows, sizes = ~infrared, (len(labels) // 2, len(labels) // 2)
    trained = [by_rule(f"DD.{m}_classifier.weight", 100, 64) for m in ("visible", "infrared")]
    means = [by_rule(f"DD.{m}_classifier_.weight", 100, 64).lerp(t, 0.2)
             for m, t in zip(("visible", "infrared"), trained)]
    own = [weights.requires_grad_() for weights in trained]
    judged = torch.stack([f, g])
    output = output_of(
        labels, infrared, pooled=f[None], neck=f[None], shifted=g[None], logits=f.new_zeros(1, len(f), 100),
        own_logits=each_by(judged, sizes, *own), other_logits=each_by(judged.detach(), sizes, *reversed(means)),
    )
    terms = build_loss(load_config("configs/sysu_dns.yaml"))(output, epoch=0)
    check_alone(case["circle"], terms["circle"], f, g)
    check_alone(case["alignment"], terms["alignment"] / 0.2, f, g)
    check_alone(case["distillation"], terms["distillation"], f, g, own)
    lengthless = F.normalize(f, dim=1)
    check_alone(case["mmd_inter_f"], MMDLoss()(lengthless[visible_rows], lengthless[infrared]), f, g)
    check_alone(case["mmd_raw"], MMDLoss()(f, g), f, g)


@pytest.mark.parametrize("name", ALONE["hss"])
def test_the_gates_alone_match(name):
    stored, channels = ALONE["hss"][name], int(name.removeprefix("hss_"))
    gates = HSS(channels).double()
    theirs = {"reduce": "channel_attention", "rows": "conv_h", "columns": "conv_w"}
    gates.load_state_dict({
        key: by_rule(f"alone.HSS{channels}.{theirs[key.split('.')[0]]}.{key.partition('.')[2]}", *value.shape)
        if value.is_floating_point() else value for key, value in gates.state_dict().items()
    })
    x = 2 * np.random.RandomState(stored["seed"]).standard_normal((3, channels, *stored["hw"]))
    x = torch.from_numpy(x.astype(np.float32)).double().requires_grad_()
    still = gates.eval()(x).detach()
    out = gates.train()(x)
    out.square().sum().backward()
    for found, at in ((out.detach(), "train"), (x.grad, "train_grad"), (still, "eval")):
        assert found.norm().item() == pytest.approx(stored[f"{at}_norm"], rel=1e-6), at
        assert relative(found.flatten()[:6], stored[f"{at}_first"]) < 1e-6, at


def test_the_shifted_feature_alone_matches():
    stored, shift = ALONE["css"], CSS(64, dropout=0.0).double()
    shift.load_state_dict({key: by_rule(f"alone.CSS.{key}", *value.shape) for key, value in shift.state_dict().items()})
    x = 3 * np.random.RandomState(stored["seed"]).standard_normal((3, 64))
    x = torch.from_numpy(x.astype(np.float32)).double().requires_grad_()
    out = shift(x)
    out.square().sum().backward()
    for found, at in ((out.detach(), ""), (x.grad, "grad_")):
        assert found.norm().item() == pytest.approx(stored[f"{at}norm"], rel=1e-6)
        assert relative(found.flatten()[:6], stored[f"{at}first"]) < 1e-6


@pytest.mark.parametrize("name", ALONE["schedule"])
def test_the_rate_of_every_update_matches(name):
    solver = load_config(f"configs/{name}_dns.yaml").SOLVER
    for base, epoch, rates in ALONE["schedule"][name]:
        assert solver.BASE_LR == base and len(rates) == 11
        parts = [part_of_epoch(update, 10, solver) for update in range(11)]
        assert [rate_at(base, epoch, solver, part) for part in parts] == pytest.approx(rates, rel=1e-6)


# --- By hand ----------------------------------------------------------------------------------------------------------

def test_gates_are_those_of_the_shifted_map_written_out():
    gates, x = HSS(64).double().eval(), torch.randn(2, 64, 5, 3, dtype=torch.float64)
    shifted = x + x.amax(3, keepdim=True).softmax(2) * x.amax(2, keepdim=True).softmax(3)
    rows, columns = (gates.reduce(shifted.mean(axis, keepdim=True)) for axis in (3, 2))
    torch.testing.assert_close(gates(x), x * gates.rows(rows).sigmoid() * gates.columns(columns).sigmoid())


def test_a_row_alone_has_no_circle_loss_and_points_that_coincide_no_discrepancy():
    x, labels = torch.randn(3, 4).requires_grad_(), torch.tensor([1, 1, 2])
    loss = CircleLoss(0.45, 64.0)(x, labels, labels > 1)
    rest = CircleLoss(0.45, 64.0)(x[:2], labels[:2], labels[:2] > 1)  # without negatives
    assert loss.item() > 0 and rest.item() == 0 and rest.requires_grad
    gradient, = torch.autograd.grad(rest, x)
    assert not gradient.any()
    same = torch.ones(2, 4, requires_grad=True)
    value = MMDLoss()(same, same)
    assert value.item() == 0 and not torch.autograd.grad(value, same)[0].any()


def test_the_discrepancy_of_two_known_points():
    """d² = 4, and so is its mean over ordered pairs: 2 · 5 kernels at 0, less twice those at 4 / (4 · 2^i)."""
    value = MMDLoss()(torch.tensor([[0.0]]), torch.tensor([[2.0]]))
    assert value.item() == pytest.approx(10 - 2 * sum(np.exp(-1 / 2.0 ** i) for i in range(-2, 3)), rel=1e-6)


def small(*overrides):
    cfg = load_config("configs/quickstart_dns.yaml", overrides)
    return build_model(cfg.MODEL, classes=5), cfg


def trained_output(model):
    images = torch.randn(2, 4, 3, 64, 32)
    return model(two_streams(*images, [0, 0, 1, 2]))


def test_a_training_pass_is_wired_as_the_page_says(thin):
    """Each entry from the modules that should make it; means that move once an update."""
    model, _ = small("MODEL.DNS.DROPOUT", "0")
    model.before_update(0)
    with torch.no_grad():
        model.visible_classifier.weight.add_(1)
    before = model.visible_mean.clone()
    model.before_update(0)
    torch.testing.assert_close(model.visible_mean, before + 0.2)
    seen = {}
    model.shift4.register_forward_hook(lambda _m, _i, out: seen.update(last=out))
    output = trained_output(model)
    assert {*output.entries} == {"pooled", "neck", "logits", "shifted", "own_logits", "other_logits"}
    shifted = model.css(seen["last"].mean(dim=(2, 3)))
    torch.testing.assert_close(output.shifted[0], shifted)
    torch.testing.assert_close(output.pooled[0], (seen["last"] ** 3).mean(dim=(2, 3)).add(1e-12) ** (1 / 3))
    for i, feature in enumerate((output.neck[0], shifted)):
        torch.testing.assert_close(output.own_logits[i, :4], feature[:4] @ model.visible_classifier.weight.T)
        torch.testing.assert_close(output.other_logits[i, 4:], feature[4:] @ model.visible_mean.T)
        torch.testing.assert_close(output.other_logits[i, :4], feature[:4] @ model.infrared_mean.T)
    assert output.own_logits.requires_grad and not output.other_logits.requires_grad
    assert torch.equal(output.infrared, torch.arange(8) > 3)


def test_terms_by_the_page(thin):
    model, cfg = small()
    output = trained_output(model)
    terms = build_loss(cfg)(output, epoch=0)
    labels, neck = output.labels, output.neck[0]
    assert terms["id"].item() == pytest.approx(F.cross_entropy(output.logits[0], labels).item())
    circle = CircleLoss(0.45, 64.0)(neck, labels, output.infrared)
    assert terms["circle"].item() == pytest.approx(circle.item() / 8)
    once = build_loss(load_config("configs/quickstart_dns.yaml", ["LOSS.DNS.CIRCLE_MEAN", "once"]))
    assert once(output, 0)["circle"].item() == pytest.approx(circle.item())
    f, g = F.normalize(output.pooled[0], dim=1), F.normalize(output.shifted[0], dim=1)
    mmd = MMDLoss()
    expected = 0.45 * (mmd(f[:4], f[4:]) + mmd(g[:4], g[4:])) + 0.05 * (mmd(f[:4], g[:4]) + mmd(f[4:], g[4:]))
    assert terms["alignment"].item() == pytest.approx(0.2 * expected.item(), rel=1e-5)
    expected = 0
    for own, other in zip(output.own_logits, output.other_logits):
        p, q = own.log_softmax(1), other.log_softmax(1)
        expected += (p.exp() * (p - q)).sum() / 8
        expected += 0.25 * (F.cross_entropy(own[:4], labels[:4]) + F.cross_entropy(own[4:], labels[4:]))
    assert terms["distillation"].item() == pytest.approx(expected.item(), rel=1e-5)
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_without_its_parts_the_method_is_smaller(thin):
    model, cfg = small("MODEL.DNS.HSS", "false", "MODEL.DNS.CSS", "false", "MODEL.DNS.NECK_BIAS", "false")
    output = trained_output(model)
    assert len(output.shifted) == 0 and output.own_logits.shape == (1, 8, 5)
    assert not any(name.startswith(("css.", "shift")) for name, _ in model.named_parameters())
    assert not model.head.neck.bias.requires_grad and not model.head.neck.bias.any()
    terms = build_loss(cfg)(output, epoch=0)
    f = F.normalize(output.pooled[0], dim=1)
    assert terms["alignment"].item() == pytest.approx(0.2 * 0.45 * MMDLoss()(f[:4], f[4:]).item(), rel=1e-5)
    images = torch.randn(2, 3, 64, 32)
    assert model.eval().embed(images, infrared=True).shape == (2, 2 * model.head.neck.num_features)


def test_rates_by_part(thin):
    model, _ = small()
    groups = model.parameter_groups(2.0, 0.1)
    rate_of = {id(p): group["base_lr"] for group in groups for p in group["params"]}
    rates = {name: rate_of[id(p)] for name, p in model.named_parameters()}
    expected = {
        "backbone.visible_stem": 0.2, "backbone.infrared_stem": 0.2, "shift3": 0.2, "shift4": 0.2, "css": 0.2,
        "backbone.stages.0": 0.4, "backbone.stages.1": 0.5,
        "head": 2.0, "visible_classifier": 2.0, "infrared_classifier": 2.0,
    }
    found = {start: {round(rate, 9) for name, rate in rates.items() if name.startswith(f"{start}.")}
             for start in expected}
    assert found == {start: {rate} for start, rate in expected.items()}
    assert len(rates) == sum(len(group["params"]) for group in groups)


def test_the_embedding_keeps_the_length_that_image_and_mirror_image_give_it(thin):
    """Twice the cosine of half their angle: symmetric images have 2, others less; without flip it is 1."""
    model, _ = small()
    model.eval()
    images = torch.randn(3, 3, 64, 32)
    images[0] = (images[0] + images[0].flip(-1)) / 2
    parts = model.embed(images, infrared=False).chunk(2, dim=1)
    for part, alone in zip(parts, model.embed(images, infrared=False, flip=False).chunk(2, dim=1)):
        mirrored = model.embed(images.flip(-1), infrared=False, flip=False).chunk(2, dim=1)
        assert part.norm(dim=1)[0].item() == pytest.approx(2, abs=1e-4) and (part.norm(dim=1)[1:] < 2 - 1e-6).all()
        torch.testing.assert_close(alone.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(parts[1], unit_necks(model, images) + mirrored[1])


def unit_necks(model, images):
    return F.normalize(model.head.features(model.encode(model.stem_map(images, False)))[1], dim=1)


# --- Checkpoints and recipes ------------------------------------------------------------------------------------------

def test_the_importer_takes_the_whole_and_names_what_is_missing():
    state = unwritten_state(KEYS)
    with torch.device("meta"):
        model, _ = empty()
    used = {authors_name(key, model) for key in from_authors(state, model)}
    assert {key for key in state if key not in used} == {key for key in state if key.startswith(SKIPPED)}
    check_trained(KEYS, model)
    without = {key: value for key, value in state.items() if key != "DD.visible_classifier_.weight"}
    with pytest.raises(AuthorsCheckpointError, match="missing: DD.visible_classifier_.weight"):
        from_authors(without, model)
    with pytest.raises(AuthorsCheckpointError, match="of another shape: base.HSS3.conv_h.weight"):
        from_authors(state | {"base.HSS3.conv_h.weight": torch.zeros(2)}, model)


SKIPPED = ("base.base.layer1.", "base.base.layer2.")


@pytest.mark.parametrize("name, base, hue, first, second, exchange", [
    ("sysu", 0.2, True, True, True, {"grey": True}), ("regdb", 0.1, False, True, False, {"grey": False}),
    ("llcm", 0.2, True, False, True, {"grey": False}),
])
def test_the_recipe(name, base, hue, first, second, exchange):
    cfg = load_config(f"configs/{name}_dns.yaml")
    solver, data = cfg.SOLVER, cfg.DATA
    assert (data.NAME, data.HEIGHT, data.WIDTH, data.RESIZE, cfg.TEST.FLIP) == (name, 288, 144, "lanczos", True)
    assert (solver.IDENTITIES, solver.IMAGES, solver.SAMPLER, solver.EPOCHS) == (6, 4, "replacement", 100)
    assert (solver.OPTIMIZER, solver.MOMENTUM, solver.WEIGHT_DECAY, solver.BASE_LR) == ("sgd", 0.9, 5e-4, base)
    assert (solver.BACKBONE_LR_FACTOR, solver.PRECISION) == (0.1, "float16")
    fill = {"p": 0.5, "fill": [0.4914, 0.4822, 0.4465]}
    before = {"area": [0.02, 0.33], "aspect": [0.3, 3.3], "tries": 10, "even_log": True, "before_normalise": True}
    level = {"area": [0.02, 0.4], "aspect": [0.3, 1 / 0.3], "tries": 100, "even_log": False,
             "before_normalise": False}
    erased = [("erase", fill | before)] * first + [("erase", fill | level)] * second
    begin = [("pad", {"pixels": 10, "fill": 0}), ("crop", {}), ("flip", {"p": 0.5})]
    (visible,), (infrared,) = data.VISIBLE, data.INFRARED
    assert steps_of(visible) == [
        *begin, ("normalise", {}), *erased, ("exchange", {"p": pytest.approx(2 / 3, abs=1e-6)} | exchange),
    ]
    assert steps_of(infrared) == [*begin, *[("hue", {"p": 1.0, "most": 0.5})] * hue, ("normalise", {}), *erased]


def steps_of(view):
    return [(step, {k: v for k, v in numbers.items() if k not in ("from", "until")})
            for step, numbers in map(read_step, view)]
