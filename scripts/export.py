"""Write a network's test-time embedding as one file that needs nothing of this repository.

    python scripts/export.py --checkpoint runs/sysu_cmfn --format onnx
    python scripts/export.py --checkpoint runs/sysu_cmfn --format pt2 --modality visible --weighting neck
    python scripts/export.py --authors-checkpoint sysu.t --config configs/sysu_cmfn.yaml --format torchscript \\
        --output sysu.ts

The file takes images as they are; normalisation, mirrored images and weighting are inside, so that inner products of
what it returns are the similarities of test.py. Before it is kept, its own runtime reads it and it is compared with the
network. docs/export.md says how to use it.
"""

import argparse
import copy
import importlib
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from yacs.config import CfgNode

from assembly.embedding import learned_directions
from assembly.errors import EXPECTED_ERRORS
from assembly.recipe import require_any_pair, weightings_of
from assembly.trained import find_checkpoint, load_authors, load_run, open_tested
from common.words import how_many
from configs.load import ConfigError, load_config
from data.pixels import MEAN, STD, eval_transform
from models.authors_checkpoint import AuthorsCheckpointError
from models.network import Network
from utils.evaluation.evaluator import scaled
from utils.output import OutputError, keep, require_files, require_folder
from utils.retrieval.compress import CompressionError, project

METADATA = "metadata.json"  # the extra file in a torchscript or pt2 file; an ONNX file has properties
TOLERANCE = 1e-4
BATCHES = (1, 3, 5)  # the examples that a file is made from are of another size
LICENCE = (
    "Code: MIT. Weights: bound by the licences of the data that they were trained on; those of SYSU-MM01, RegDB and "
    "LLCM allow research only."
)


class ExportError(RuntimeError):
    """The file cannot be made here, or doesn't compute what the network does."""


class Embedder(nn.Module):
    """What is exported.

    model        in evaluation mode; not changed, its weights are shared
    modality     visible, infrared or both
    flip         add the features of the mirrored images
    scale        (E,) of the embedding's columns; those of 0 are left out
    directions   what compresses the scaled embedding, or None

    images       (B, 3, H, W) uint8, RGB
    infrared     (B,) bool: which images are infrared, where the modality is both
    returns      (B, E') float32
    """

    mean_of_images: Tensor
    std_of_images: Tensor
    columns: Tensor
    scale: Tensor
    directions: Tensor | None

    def __init__(self, model: Network, modality: str, flip: bool, scale: Tensor, directions: Tensor | None):
        super().__init__()
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model, self.flip, self.infrared = copy.deepcopy(model, shared), flip, modality == "infrared"
        self.model.keep_for_embedding(modality)
        self.register_buffer("mean_of_images", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std_of_images", torch.tensor(STD).view(3, 1, 1))
        self.register_buffer("columns", scale.nonzero().flatten())
        self.register_buffer("scale", scale[self.columns])
        self.register_buffer("directions", directions)

    def forward(self, images: Tensor, infrared: Tensor | None = None) -> Tensor:
        x = (images.float() / 255 - self.mean_of_images) / self.std_of_images
        if infrared is not None and self.model.reads_modality:  # as a channel it goes wherever `embed` takes the image
            x = torch.cat([x, infrared.float()[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)
        embeddings = self.model.embed(x, self.infrared, self.flip)[:, self.columns] * self.scale
        if infrared is not None and not self.model.reads_modality:
            embeddings = embeddings + 0 * infrared[:, None].float()  # the file has this input all the same
        return embeddings if self.directions is None else embeddings @ self.directions


class EvenChunks(TorchFunctionMode):
    """Tensor.chunk as two views of equal parts, which torch.export can follow for a batch of any size."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.chunk:
            x, chunks = args
            return x.unflatten(kwargs["dim"], (chunks, -1)).unbind(kwargs["dim"])
        return func(*args, **(kwargs or {}))


def exported_program(embedder: Embedder, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    with EvenChunks():
        return torch.export.export(embedder, inputs, dynamic_shapes=({0: batch},) * len(inputs), strict=False)


def torchscript_file(embedder: Embedder, inputs: tuple[Tensor, ...], metadata: dict[str, str]) -> bytes:
    traced, file = torch.jit.trace(embedder, inputs, check_trace=False), io.BytesIO()
    torch.jit.save(traced, file, _extra_files={METADATA: json.dumps(metadata)})
    return file.getvalue()


def pt2_file(embedder: Embedder, inputs: tuple[Tensor, ...], metadata: dict[str, str]) -> bytes:
    program, file = exported_program(embedder, inputs), io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
    return file.getvalue()


def onnx_file(embedder: Embedder, inputs: tuple[Tensor, ...], metadata: dict[str, str]) -> bytes:
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with sdpa_kernel(SDPBackend.MATH):  # the CPU's fused attention has a memory layout that the conversion refuses
        program: Any = torch.onnx.export(
            exported_program(embedder, inputs), dynamo=True, input_names=["images", "infrared"][:len(inputs)],
            output_names=["embeddings"], dynamic_shapes=({0: "batch"},) * len(inputs), verbose=False,
            optimize=False,  # it would take GeM's 1e-12 for 0, by which dead channels pool to 1e-4
        )
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


def read_torchscript(path: Path) -> Callable[..., Tensor]:
    return torch.jit.load(path)


def read_pt2(path: Path) -> Callable[..., Tensor]:
    return torch.export.load(path).module()


def read_onnx(path: Path) -> Callable[..., Tensor]:
    import onnxruntime  # optional, like the file's format

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *inputs: torch.from_numpy(session.run(None, dict(zip(names, (x.numpy() for x in inputs))))[0])


class Format(NamedTuple):
    ending: str
    file: Callable[[Embedder, tuple[Tensor, ...], dict[str, str]], bytes]  # what is written
    read: Callable[[Path], Callable[..., Tensor]]
    packages: tuple[str, ...] = ()


FORMATS = {
    "torchscript": Format(".ts", torchscript_file, read_torchscript),
    "onnx": Format(".onnx", onnx_file, read_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "pt2": Format(".pt2", pt2_file, read_pt2),
}


def check_installed(name: str) -> None:
    """
    raises   ExportError where a format's packages are not there
    """
    kind = FORMATS[name]
    for package in kind.packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ExportError(
                f"--format {name} needs {', '.join(kind.packages)} ({error}): pip install -r requirements-optional.txt"
            ) from None


def example(images: int, cfg: CfgNode, modality: str) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, H, W) uint8, and which of them are infrared, (B,) bool."""
    pixels = torch.randint(256, (images, 3, cfg.DATA.HEIGHT, cfg.DATA.WIDTH), dtype=torch.uint8)
    is_infrared = torch.arange(images) % 2 == 0 if modality == "both" else torch.full((images,), modality == "infrared")
    return pixels, is_infrared


def as_tested(
    model: Network, pixels: Tensor, is_infrared: Tensor, flip: bool, scale: Tensor, directions: Tensor | None
) -> Tensor:
    """(B, E') embeddings by the steps of test.py, whose inner products are its similarities."""
    images = torch.stack([eval_transform(image) for image in pixels.permute(0, 2, 3, 1).contiguous().numpy()])
    embeddings = torch.zeros(len(images), len(scale))
    for infrared in is_infrared.unique().tolist():
        rows = is_infrared == infrared
        embeddings[rows] = model.embed(images[rows], infrared, flip)
    embeddings = scaled(embeddings, scale)
    return embeddings if directions is None else project(embeddings, directions)


def relative_errors(found: Tensor, expected: Tensor) -> Tensor:
    """(B,) lengths of the differences over those of the embeddings; nan or infinite where either is."""
    return (found - expected).norm(dim=1) / expected.norm(dim=1)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """
    raises   ExportError where the disk refuses
    """
    try:
        yield
    except OSError as error:
        raise ExportError(f"{path} could not be written ({error}); what was there before is as it was") from None


@torch.no_grad()
def export(
    model: Network, cfg: CfgNode, name: str, modality: str, scale: Tensor, directions: Tensor | None, path: Path,
    metadata: dict[str, str],
) -> dict[int, float]:
    """Write and verify the file; until it is verified, what `path` held before stays there. A file that the disk
    refuses is verified in the system's temporary folder, and stays there.

    model     on the CPU
    name      of the format
    returns   by batch size, the largest error relative to the embedding's length
    raises    ExportError where the disk refuses or the file computes something else; it is then kept as *.rejected*
    """
    model, kind, flip = model.eval(), FORMATS[name], cfg.TEST.FLIP
    embedder = Embedder(model, modality, flip, scale, directions).eval()
    inputs = example(2, cfg, modality)[:2 if modality == "both" else 1]
    embedder(*inputs)  # an image size that the network refuses is said before anything is traced
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise ExportError(f"--output {path} is a folder; name a file, such as {path / ('embedder' + kind.ending)}")
        temporary = path.with_name(f"{path.stem}.unverified{path.suffix}")
        temporary.touch()  # what the disk refuses from the beginning is said before anything is traced
    try:
        with warnings.catch_warnings():
            # Sizes of maps are constants of the file, and torch.jit is what was asked for.
            warnings.simplefilter("ignore")
            content = kind.file(embedder, inputs, metadata)
            with writing(path):
                file, refused = write_somewhere(temporary, path.name, content)
            del content  # as large as the network
            run, errors = kind.read(file), {}
            for size in BATCHES:
                pixels, is_infrared = example(size, cfg, modality)
                expected = as_tested(model, pixels, is_infrared, flip, scale, directions)
                found = run(pixels, is_infrared) if modality == "both" else run(pixels)
                errors[size] = relative_errors(found, expected).max().item()
        wrong = {size: error for size, error in errors.items() if not error <= TOLERANCE}
        with writing(path):
            if not refused:
                file = path.with_name(f"{path.stem}.rejected{path.suffix}") if wrong else path
                os.replace(temporary, file)
    finally:
        with suppress(OSError):  # most often it isn't there any more
            temporary.unlink()
    if wrong:
        listed = ", ".join(f"{error:.1e} in a batch of {size}" for size, error in wrong.items())
        raise ExportError(
            f"the file differs from the network: {listed}, where {TOLERANCE:.0e} of the embedding's length is allowed; "
            f"it is kept as {file} for inspection. Look at the checkpoint's weights, or try another --format"
        )
    if refused:
        raise ExportError(
            f"{path} could not be written ({refused}); what was there before is as it was. The file, verified, is "
            f"{file}: make room and move it"
        )
    return errors


def write_somewhere(path: Path, name: str, content: bytes) -> tuple[Path, OSError | None]:
    """Write to `path` or, where its disk refuses, to a file of that name in the system's temporary folder.

    returns   where the content is, and why it isn't in `path`
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        return keep(name, content), error
    return path, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="a checkpoint of train.py, or the folder of a run")
    source.add_argument("--authors-checkpoint", type=Path, help="a checkpoint in the authors' format; needs --config")
    parser.add_argument("--config", help="a yaml file, where the checkpoint doesn't bring its configuration")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--modality", choices=("visible", "infrared", "both"), default="both",
                        help="of the images that the file takes; both: a second input says it of each image")
    parser.add_argument("--weighting", help="of pooled and neck features; default: the reported one")
    parser.add_argument("--output", type=Path, help="the file; default: beside the checkpoint, named by its content")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the checkpoint's or file's")
    args = parser.parse_intermixed_args()
    check_installed(args.format)
    if args.output:
        require_files(args.output, fix="choose another --output")
    else:
        require_folder(find_checkpoint(args.checkpoint or args.authors_checkpoint).parent, "choose another --output")
    if args.checkpoint:
        if args.config:
            raise ConfigError("--checkpoint brings its own configuration; leave --config out and set KEY VALUE pairs")
        model, cfg, checkpoint = load_run(args.checkpoint, args.overrides, complete=False)
        require_any_pair(model, "who uses an exported network")
    else:
        if not args.config:
            raise ConfigError("--authors-checkpoint needs --config")
        cfg = load_config(args.config, args.overrides)
        model, checkpoint = load_authors(args.authors_checkpoint, cfg)
    weighting = args.weighting or weightings_of(model, cfg)[0]
    if weighting not in model.weightings:
        raise ConfigError(f"the weighting is {weighting!r}; {cfg.MODEL.NAME} has {', '.join(model.weightings)}")

    model, directions = model.eval(), None
    if cfg.EMBEDDING.DIM:
        def train_records() -> list:
            return open_tested(cfg, checkpoint).train

        cpu = torch.device("cpu")
        directions = learned_directions(model, [weighting], train_records, cfg, checkpoint, cpu)[weighting]
    scale = model.column_scale(weighting)
    metadata = {
        "method": cfg.MODEL.NAME,
        "checkpoint_sha256": checkpoint["sha256"],
        "data": cfg.DATA.NAME,
        "height": cfg.DATA.HEIGHT,
        "resize": cfg.DATA.RESIZE,
        "width": cfg.DATA.WIDTH,
        "modality": args.modality,
        "weighting": weighting,
        "flip": cfg.TEST.FLIP,
        "numbers": int(scale.count_nonzero()) if directions is None else directions.shape[1],
        "compressed": directions is not None,
        "torch": torch.__version__,
        "licence": LICENCE,
    }
    metadata = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in metadata.items()}
    ending = FORMATS[args.format].ending
    path = args.output or Path(checkpoint["path"]).parent / f"{cfg.MODEL.NAME}-{args.modality}-{weighting}{ending}"
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    require_files(path, fix="choose another --output", room=size)
    torch.manual_seed(cfg.SEED)
    errors = export(model, cfg, args.format, args.modality, scale, directions, path, metadata)
    for size, error in errors.items():
        print(f"batch of {size}: differs from the network by {error:.1e} of the embedding's length")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {how_many(metadata['numbers'], 'number')} for each image")


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, AuthorsCheckpointError, CompressionError, ExportError, OutputError))
