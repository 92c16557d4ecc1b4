"""Every option: its default, one line of explanation, what is allowed. The yaml files in this folder override them.

What only some methods read is declared beside what reads it, and collected here: options of networks in models/, of
totals in losses/totals/.
"""

from typing import Any

from yacs.config import CfgNode

from common.options import MOST_EPOCHS, Option, Section, defaults_of, option, options_of
from data.pixels import RESIZES
from data.sampler import SAMPLERS
from data.transforms import OneView, Views
from losses.build import TOTALS
from models.build import MODELS


class Reranking(Option):
    """The name of a re-ranking. What true and false once said is still read."""

    def read(self, value: object) -> object:
        return {True: "k_reciprocal", False: "none"}[value] if isinstance(value, bool) else value


_C = Section()

_C.SEED = option(0, "of weights, sampling, augmentation and validation split", at_least=0, at_most=2**63 - 1)
_C.DEVICE = option("auto", "cuda, cpu, cuda:1, ...; auto takes CUDA if there is one",
                   form=(r"auto|cpu|(cuda|mps|xpu)(:\d\d?)?", "auto, cpu, cuda, mps or xpu, or with a number: cuda:1"))
_C.DETERMINISTIC = option(False, "only operators that give the same bits in every run; slower on CUDA")
_C.OUTPUT = option("runs/cmfn", "the run's folder: checkpoints, log, metrics, results")

_C.DATA = Section()
_C.DATA.NAME = option("sysu", "sysu, regdb, llcm, market, synthetic (the embedded data set), or for images of your own "
                       "folder or folder-NAME; a name of data/dataset.py")
_C.DATA.ROOT = option("datasets/SYSU-MM01", "the folder that the data set's owners ship")
_C.DATA.SPLIT = option(1, "RegDB: which of its ten splits; a folder of your own without a split: which drawn one",
                       at_least=1, at_most=10)
_C.DATA.FOLDER = Section()
_C.DATA.FOLDER.LIST = option("", "the CSV file in DATA.ROOT that lists your images; empty: images.csv, or else folders",
                             goes_with=("DATA.NAME", "folder"))
_C.DATA.FOLDER.TEST_SHARE = option(0.5, "of the people, for the test, where no split is given; 1: all, and no training",
                                   above=0, at_most=1, goes_with=("DATA.NAME", "folder"))
_C.DATA.FOLDER.VALIDATION_SHARE = option(0.1, "of the training people, to choose the best epoch, where none are given",
                                         at_least=0, below=1, goes_with=("DATA.NAME", "folder"))
_C.DATA.HEIGHT = option(384, "image height in pixels, for training and test", at_least=16, at_most=4096)
_C.DATA.WIDTH = option(192, "image width in pixels", at_least=16, at_most=4096)
_C.DATA.RESIZE = option("lanczos", "how images get that size, in training and test", one_of=tuple(RESIZES))
_C.DATA.READ_SIZE = option(
    [0, 0], "height and width to which training images are resized before their pipelines; 0: the network's",
    at_least=0, at_most=4096,
)
_RECIPE = ["jitter", "pad", "grey", "crop", "flip", "normalise", "erase"]
_C.DATA.VISIBLE = Views([_RECIPE], "what is done to a visible image in training: for each view of it, a list of steps")
_C.DATA.INFRARED = Views([_RECIPE], "likewise to an infrared one (data/transforms.py has the steps)")
_C.DATA.SHAPES = option("", "folder of body-shape images, in DATA.ROOT or elsewhere, with the paths of the training "
                         "images (scripts/make_shapes.py); empty: none")
_C.DATA.SHAPE = OneView([["pad", "crop", "flip", "normalise"]], "what is done to a body-shape image in training: one "
                        "list of steps")
_C.DATA.CACHE = option("", "folder of resized images (scripts/prepare.py), memory-mapped; empty: none")
_C.DATA.WORKERS = option(8, "processes that load images; changes no batch", at_least=0, at_most=256)

_C.MODEL = Section()
_C.MODEL.NAME = option("cmfn", "the network, an entry of models/build.py")
_C.MODEL.PRETRAINED = option("imagenet", "imagenet, none, or the path of a state dict (of a ResNet, torchvision's) or "
                              "of a two-stream network's checkpoint")
_C.MODEL.RECOMPUTE = option([], "parts computed again in the backward pass, to save memory")

_C.LOSS = Section()

_C.SOLVER = Section()
_C.SOLVER.EPOCHS = option(151, "number of epochs", at_least=1, at_most=MOST_EPOCHS)
_C.SOLVER.IDENTITIES = option(6, "P, identities in a batch", at_least=1, at_most=1000)
_C.SOLVER.IMAGES = option(4, "K, images of each identity and modality in a batch; of blind_chunks, of each identity",
                          at_least=1, at_most=100)
_C.SOLVER.SAMPLER = option("replacement", "images drawn with replacement; distinct: different ones in a batch; "
                           "chunks: each once an epoch; blind_chunks: likewise, K whatever their modality",
                           one_of=tuple(SAMPLERS))
_C.SOLVER.ACCUMULATION = option(1, "batches whose mean gradient makes an update", at_least=1, at_most=10_000)
_C.SOLVER.SYNC_BN = option(False, "batch norm over all processes' images instead of each one's own; CUDA only")
_C.SOLVER.BASE_LR = option(0.1, "learning rate of neck and classifier", at_least=0)
_C.SOLVER.BACKBONE_LR_FACTOR = option(0.1, "everything else learns at this fraction of it", at_least=0, at_most=100)
_C.SOLVER.OPTIMIZER = option("sgd", "sgd, adam (decay added to the gradient) or adamw", one_of=("sgd", "adam", "adamw"))
_C.SOLVER.MOMENTUM = option(0.9, "of SGD with Nesterov's rule", above=0, below=1, goes_with=("SOLVER.OPTIMIZER", "sgd"))
_C.SOLVER.WEIGHT_DECAY = option(5e-4, "on every trained parameter", at_least=0, at_most=1)
_C.SOLVER.CLIP_NORM = option(0.0, "the gradient, of all parameters together, is shortened to this length; 0: never",
                             at_least=0, at_most=1e6)
_C.SOLVER.SCHEDULE = option("steps", "of the rate by epoch, after the warm-up; line: LR_POINTS, without one",
                            one_of=("steps", "cosine", "line"))
_C.SOLVER.WARMUP_EPOCHS = option(10, "epoch e < this: rate × (e + 1) / this", at_least=0, at_most=MOST_EPOCHS,
                                 goes_with=("SOLVER.SCHEDULE", "steps", "cosine"))
_C.SOLVER.LR_STEPS = option([[20, 0.1], [80, 0.01]], "[first epoch, factor from then on]", at_least=0, at_most=100,
                            goes_with=("SOLVER.SCHEDULE", "steps"))
_C.SOLVER.LR_POINTS = option([[0, 1.0]], "of line: [epoch, factor], joined by straight lines",
                             at_least=0, at_most=100, from_start=True, goes_with=("SOLVER.SCHEDULE", "line"))
_C.SOLVER.RATE_BY = option("epoch", "one rate for each epoch, or update: on a straight line to the next epoch's; "
                           "update_before: each update has that of the one before, the first that of the last",
                           one_of=("epoch", "update", "update_before"))
_C.SOLVER.LOWEST_LR = option(0.0, "of cosine: the rate from which it warms up and at which it ends", at_least=0,
                              goes_with=("SOLVER.SCHEDULE", "cosine"))
_C.SOLVER.PRECISION = option("float32", "bfloat16 and float16 are autocast; losses are float32 always",
                             one_of=("float32", "bfloat16", "float16"))
_C.SOLVER.TF32 = option("convolutions", "in training on CUDA, which float32 products are rounded to TF32, three digits",
                        one_of=("none", "convolutions", "all"))
_C.SOLVER.CHANNELS_LAST = option(True, "images and maps lie in memory with their channels together")
_C.SOLVER.COMPILE = option("none", "torch.compile of the training pass; reduce-overhead: with CUDA graphs",
                           one_of=("none", "default", "reduce-overhead"))
_C.SOLVER.LOG_PERIOD = option(10, "steps between updates of the progress bar", at_least=1, at_most=1_000_000)
_C.SOLVER.VALIDATION_IDS = option(0, "training identities held out to choose the best epoch; 0: the last one counts",
                                  at_least=0, at_most=100_000)
_C.SOLVER.EVAL_PERIOD = option(5, "epochs between validations, where there is one", at_least=1, at_most=MOST_EPOCHS)
_C.SOLVER.CHOOSE_BEST_ON_TEST_DATA = option(
    False, "as the field's code does; inflates the figures, so never the default")

_C.TEST = Section()
_C.TEST.PROTOCOLS = option([], "names as test.py prints them, all, or empty for the data set's usual ones")
_C.TEST.FLIP = option(True, "add the features of the mirrored image")
_C.TEST.WEIGHTINGS = option([], "of pooled and neck features; empty: each that the network has, the reported first")
_C.TEST.BATCH = option(64, "images in a forward pass", at_least=1, at_most=4096)
_C.TEST.RERANK = Reranking(
    "none", "re-ranking: k_reciprocal (Zhong et al. 2017), MCJA's mser, whose gain comes from the set of queries, or "
    "SAAI's aim, whose gain comes from the gallery", one_of=("none", "k_reciprocal", "mser", "aim"),
)
_C.TEST.AIM = Section()
_C.TEST.AIM.K1 = option(0, "of aim: how many affinities an image keeps; 0: its authors' for the protocol",
                        at_least=0, at_most=100_000, goes_with=("TEST.RERANK", "aim"))
_C.TEST.AIM.K2 = option(0, "of aim: over how many neighbours, itself among them, a gallery image's are averaged; "
                        "0: its authors' for the protocol", at_least=0, at_most=100_000,
                        goes_with=("TEST.RERANK", "aim"))

_C.EMBEDDING = Section()
_C.EMBEDDING.DIM = option(0, "numbers of a compressed embedding (PCA learned on the training set); 0: none",
                          at_least=0, at_most=100_000)


def collected(section: Section, methods: dict[str, Any], prefix: str) -> dict[str, set[str]]:
    """Declare in a section what the methods' networks or totals read; returns, by key, whose option it is.

    raises   ValueError where two of them declare one key in two ways
    """
    owners: dict[str, set[str]] = {}
    for method, owner in methods.items():
        for name, declared in owner.options.items():
            *sections, last = name.split(".")
            node = section
            for inner in sections:
                node = vars(node).setdefault(inner, Section())
            if vars(node).setdefault(last, declared) is not declared:
                raise ValueError(f"{method} declares {prefix}{name}, which another method declares otherwise")
            owners.setdefault(prefix + name, set()).add(method)
    return owners


# By key, the methods that read an option; what isn't here, all read.
OWNERS = collected(_C.MODEL, MODELS, "MODEL.") | collected(_C.LOSS, TOTALS, "LOSS.")
OWNERS |= {key: {name for name, network in MODELS.items() if network.reads_shapes}
           for key in ("DATA.SHAPES", "DATA.SHAPE")}
OPTIONS: dict[str, Option] = options_of(_C)  # by key, such as SOLVER.EPOCHS
_DEFAULTS = defaults_of(_C)


def get_defaults() -> CfgNode:
    return _DEFAULTS.clone()
