"""Exported files compute what the network does, without this repository; what differs is never kept under its name."""

import contextlib
import io
import itertools
import json
import re
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import export as script
from programs import run_apart
from thin import shortest
from trees import write_image

from assembly.recipe import build_network, image_size
from configs.load import ConfigError, load_config
from data.pixels import eval_transform, open_image
from models.build import MODELS
from models.parts.head import GeM
from utils.training.checkpoint import save_checkpoint

EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\b.*?\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL))


pytestmark = pytest.mark.usefixtures("short")
COMPARED = ("agw", "caj", "deen", "base", "mpanet", "pmt", "mscmnet", "mcja", "dns", "mclnet", "sefel")
CONFIGS = {name: f"quickstart_{name}" for name in ("cmfn", *COMPARED)}
FORMATS, MODALITIES = ("torchscript", "pt2", "onnx"), ("both", "visible", "infrared")
# Every method in every format; each modality occurs in each format. The baseline is AGW without its blocks.
FILES = [(name, kind, MODALITIES[(i + j) % 3]) for i, name in enumerate(CONFIGS) for j, kind in enumerate(FORMATS)
         if name != "base" or kind == "torchscript"]


@pytest.fixture(scope="module")
def short():
    """Converting takes its time for each operator of a network, and further blocks have the same ones."""
    with shortest():
        yield


def network(name="cmfn", *overrides):
    """A small network whose normalisations do something, and its configuration."""
    cfg = load_config(ROOT / "configs" / f"{CONFIGS[name]}.yaml", ["DEVICE", "cpu", *overrides])
    torch.manual_seed(0)
    model = build_network(cfg, classes=3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval(), cfg


def save_run(name, folder):
    model, cfg = network(name, "OUTPUT", str(folder))
    state = {"config": cfg.dump(), "model": model.state_dict(), "identities": [1, 2, 3], "epoch": 1, "step": 0}
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder / "last.pth", state)
    return folder


def call(*arguments):
    """What the script prints."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
        script.main()
    return printed.getvalue()


@pytest.fixture(scope="module")
def written(shared, short):
    """(method, format, modality) → the file and what the script printed; each is made once."""
    def write(name, kind, modality):
        def make(folder):
            run = save_run(name, folder)
            printed = call("--checkpoint", run, "--format", kind, "--modality", modality, "--output", folder / file)
            (folder / "printed.txt").write_text(printed)

        file = f"file{script.FORMATS[kind].ending}"
        folder = shared.once(f"export-{name}-{kind}-{modality}", make)
        return folder / file, (folder / "printed.txt").read_text()

    return write


def usual(files):
    """By default TorchScript, which is soon made, with --all every format."""
    return [file if file[1] == "torchscript" else pytest.param(*file, marks=pytest.mark.long) for file in files]


def exported(name, kind, modality, path):
    model, cfg = network(name)
    scale = model.column_scale(next(iter(model.weightings)))
    return script.export(model, cfg, kind, modality, scale, None, path, {})


def test_every_method_is_exported():
    assert {network(name)[1].MODEL.NAME for name in CONFIGS} == {*MODELS}
    assert {(kind, modality) for _, kind, modality in FILES} == {*itertools.product(script.FORMATS, MODALITIES)}


@pytest.mark.parametrize("name, kind, modality", usual(FILES))
def test_the_file_is_the_network_for_any_number_of_images(name, kind, modality, written):
    file, printed = written(name, kind, modality)
    errors = {int(size): float(error) for size, error in re.findall(r"batch of (\d): .* by (\S+) of", printed)}
    assert {*errors} == {1, 3, 5} and max(errors.values()) <= 1e-5
    assert file.exists() and not [*file.parent.glob("*unverified*"), *file.parent.glob("*rejected*")]


class Pooled(nn.Module):
    """Embeds images by their pooled channels, of which the first one is dead."""

    def __init__(self):
        super().__init__()
        self.pool = GeM(3, learned=False)

    def embed(self, images, infrared, flip):
        return self.pool(images.relu() * torch.tensor([0.0, 1.0, 1.0])[:, None, None])

    def keep_for_embedding(self, modality):
        pass


def test_a_dead_channel_pools_to_what_it_does_here(tmp_path):
    """The converter's own optimisation takes 1e-12 for 0."""
    pytest.importorskip("onnxruntime")
    embedder = script.Embedder(Pooled(), "visible", False, torch.ones(3), None).eval()
    images = torch.randint(0, 256, (2, 3, 16, 8), dtype=torch.uint8)
    (tmp_path / "file.onnx").write_bytes(script.onnx_file(embedder, (images,), {}))
    with torch.inference_mode():
        here = embedder(images)
    there = script.read_onnx(tmp_path / "file.onnx")(images)
    assert (here[:, 0] == torch.tensor(1e-12) ** (1 / 3)).all()
    torch.testing.assert_close(there, here, rtol=1e-5, atol=0)


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


def test_a_refused_write_is_one_error_and_leaves_nothing(tmp_path):
    file, full = tmp_path / "file", tmp_path / "file.unverified"
    file.write_text("as it was")
    full.symlink_to("/dev/full")
    message = "file could not be written .*No space left on device.*; what was there before is as it was"
    with pytest.raises(script.ExportError, match=message):
        exported("deen", "torchscript", "visible", file)
    assert file.read_text() == "as it was" and [*tmp_path.iterdir()] == [file]
    with pytest.raises(script.ExportError, match="below could not be written"):
        exported("deen", "torchscript", "visible", file / "below")
    with pytest.raises(script.ExportError, match="name too long"):
        exported("deen", "torchscript", "visible", tmp_path / ("a" * 250))
    with pytest.raises(script.ExportError, match=r"--output \S+ is a folder; name a file, such as \S+/embedder\."):
        exported("deen", "torchscript", "visible", tmp_path)
    assert [*tmp_path.iterdir()] == [file]


def test_what_is_no_refused_write_keeps_its_own_words_and_leaves_nothing(tmp_path, monkeypatch):
    def broken(*inputs):
        raise RuntimeError("cannot be converted")

    for change in ({"file": broken}, {"read": broken}):
        with monkeypatch.context() as patch:
            patch.setitem(script.FORMATS, "torchscript", script.FORMATS["torchscript"]._replace(**change))
            with pytest.raises(RuntimeError, match="^cannot be converted$"):
                exported("deen", "torchscript", "visible", tmp_path / "file")
        assert not [*tmp_path.iterdir()]


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(script.ExportError, match=r"--format onnx needs onnx.* \(.*\): pip install -r"):
        script.check_installed("onnx")
    script.check_installed("torchscript")


@pytest.mark.parametrize("name, kind, modality", usual([
    file for file in FILES if file[0] == "deen" or file[:2] in (("agw", "onnx"), ("cmfn", "onnx"))
]))
def test_the_example_runs_without_this_repository(name, kind, modality, written, tmp_path):
    images = ("day.png", "night.png")
    for i, image in enumerate(images):
        write_image(tmp_path / image, seed=i)
    example = "onnx_example.py" if kind == "onnx" else "torch_example.py"
    (tmp_path / example).write_text(EXAMPLES[example])
    file, _ = written(name, kind, modality)
    done = run_apart(sys.executable, "-I", example, file, *images, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    model, cfg = network(name)
    which = (False, True) if modality == "both" else (modality == "infrared",) * 2
    scale = model.column_scale(next(iter(model.weightings)))
    pixels = [eval_transform(open_image(str(tmp_path / image), *image_size(cfg)))[None] for image in images]
    with torch.inference_mode():
        day, night = (nn.functional.normalize(model.embed(x, infrared, cfg.TEST.FLIP) * scale)
                      for x, infrared in zip(pixels, which))
    assert float(done.stdout.removeprefix("similarity: ")) == pytest.approx((day @ night.T).item(), abs=2e-4)


@pytest.mark.long
def test_the_free_dimension_has_a_name(written):
    session = onnxruntime.InferenceSession(written("agw", "onnx", "both")[0], providers=["CPUExecutionProvider"])
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {"images": ["batch", 3, 64, 32], "infrared": ["batch"], "embeddings": ["batch", 192]}


def test_the_file_says_what_it_is(tmp_path):
    run = save_run("deen", tmp_path / "run")
    printed = call("--checkpoint", run, "--format", "torchscript", "--modality", "visible", "--weighting", "neck",
                   "--output", tmp_path / "new" / "a.ts")
    extra = {"metadata.json": ""}
    torch.jit.load(tmp_path / "new" / "a.ts", _extra_files=extra)
    about = json.loads(extra["metadata.json"])
    assert (about["method"], about["height"], about["width"], about["weighting"]) == ("deen", "64", "32", "neck")
    assert about["resize"] == "lanczos"
    assert len(about["checkpoint_sha256"]) == 64 and about["modality"] == "visible" and "MIT" in about["licence"]
    assert "1152 numbers" in printed  # 2 · 3 views · 192 channels
    with pytest.raises(ConfigError, match="the weighting is 'pooled'; deen has equal, neck"):
        call("--checkpoint", run, "--format", "torchscript", "--weighting", "pooled")
