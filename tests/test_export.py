"""Exported files compute what the network does, without this repository; what differs is never kept under its name."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import export as script  # noqa: E402
from trees import picture  # noqa: E402

from configs.load import ConfigError, load_config  # noqa: E402
from data.transforms import eval_transform, open_image  # noqa: E402
from models.build import MODELS, build_model  # noqa: E402
from utils.checkpoint import save_checkpoint  # noqa: E402

EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\b.*?\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL))


def network(name="cmfn", *overrides):
    """A small network whose normalisations do something, and its configuration."""
    cfg = load_config(ROOT / "configs/quickstart.yaml", ["MODEL.NAME", name, "DEVICE", "cpu", *overrides])
    torch.manual_seed(0)
    model = build_model(cfg.MODEL, classes=3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval(), cfg


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model, cfg = network("cmfn", "OUTPUT", str(folder))
    state = {"config": cfg.dump(), "model": model.state_dict(), "identities": [1, 2, 3], "epoch": 1, "step": 0}
    save_checkpoint(folder / "last.pth", state)
    return folder


def exported(name, kind, modality, path, *overrides):
    model, cfg = network(name, *overrides)
    scale = model.column_scale(next(iter(model.weightings)))
    return script.export(model, cfg, kind, modality, scale, None, path, {})


@pytest.mark.parametrize("name, kind, modality, overrides", [
    *((name, "torchscript", "both", ["MODEL.STAGES", "4"]) for name in MODELS),
    ("cmfn", "pt2", "visible", []), ("agw", "pt2", "both", ["MODEL.STAGES", "4", "MODEL.POOL", "gem"]),
    ("deen", "onnx", "infrared", []), ("caj", "onnx", "both", ["MODEL.STAGES", "4", "TEST.FLIP", "False"]),
])
def test_the_file_is_the_network_for_any_number_of_images(name, kind, modality, overrides, tmp_path):
    errors = exported(name, kind, modality, tmp_path / "file", *overrides)
    assert {*errors} == {1, 3, 5} and max(errors.values()) <= 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_images_take_the_stem_of_their_modality():
    model, cfg = network()
    embedder = script.Embedder(model, "both", True, model.column_scale("equal"), None).eval()
    pixels, _ = script.example(2, cfg, "both")
    with torch.inference_mode():
        visible, infrared = (embedder(pixels, torch.tensor([kind] * 2)) for kind in (False, True))
        mixed = embedder(pixels, torch.tensor([False, True]))
    assert (visible - infrared).abs().max() > 1e-2
    torch.testing.assert_close(mixed, torch.stack([visible[0], infrared[1]]), atol=1e-5, rtol=1e-4)


def test_a_file_that_differs_is_rejected_and_the_old_one_stays(tmp_path, monkeypatch):
    path = tmp_path / "file.ts"
    path.write_text("as it was")
    honest = script.read_torchscript
    monkeypatch.setitem(script.FORMATS, "torchscript", script.FORMATS["torchscript"]._replace(
        read=lambda file: lambda *inputs: 1.001 * honest(file)(*inputs)
    ))
    with pytest.raises(script.ExportError, match="differs from the network: 1.0e-03 in a batch of 1"):
        exported("deen", "torchscript", "visible", path)
    assert path.read_text() == "as it was" and (tmp_path / "file.rejected.ts").exists()


def test_missing_packages_and_old_versions_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(script.ExportError, match="pip install -r requirements-optional.txt"):
        script.check_installed("onnx")
    monkeypatch.setattr(torch, "__version__", "2.4.1+cpu")
    with pytest.raises(script.ExportError, match="--format pt2 needs torch 2.6, and this is 2.4.1"):
        script.check_installed("pt2")
    script.check_installed("torchscript")


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
    script.main()


@pytest.mark.parametrize("example, kind, ending", [
    ("onnx_example.py", "onnx", ".onnx"), ("torch_example.py", "pt2", ".pt2"),
    ("torch_example.py", "torchscript", ".ts"),
])
def test_the_example_runs_without_this_repository(example, kind, ending, run, tmp_path, monkeypatch):
    call(monkeypatch, "--checkpoint", run, "--format", kind)
    for i, name in enumerate(("day.png", "night.png")):
        picture(tmp_path / name, seed=i)
    (tmp_path / example).write_text(EXAMPLES[example])
    file = run / f"cmfn-both-equal{ending}"
    done = subprocess.run([sys.executable, "-I", example, str(file), "day.png", "night.png"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, _ = network()
    images = [eval_transform(open_image(str(tmp_path / name), 64, 32))[None] for name in ("day.png", "night.png")]
    with torch.inference_mode():
        day, night = (nn.functional.normalize(model.embed(x, infrared)) for x, infrared in zip(images, (False, True)))
    assert float(done.stdout.removeprefix("similarity: ")) == pytest.approx((day @ night.T).item(), abs=2e-4)


def test_the_file_says_what_it_is(run, tmp_path, monkeypatch, capsys):
    call(monkeypatch, "--checkpoint", run, "--format", "torchscript", "--modality", "visible", "--weighting", "neck",
         "--output", tmp_path / "new" / "a.ts")
    extra = {"metadata.json": ""}
    torch.jit.load(tmp_path / "new" / "a.ts", _extra_files=extra)
    about = json.loads(extra["metadata.json"])
    assert (about["method"], about["height"], about["width"], about["weighting"]) == ("cmfn", "64", "32", "neck")
    assert len(about["checkpoint_sha256"]) == 64 and about["modality"] == "visible" and "MIT" in about["licence"]
    assert "1536 numbers" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="the weighting is 'pooled'; cmfn has equal, neck"):
        call(monkeypatch, "--checkpoint", run, "--format", "torchscript", "--weighting", "pooled")
