"""Every option: its default, one line of explanation, what is allowed. The yaml files in this folder override them."""

from yacs.config import CfgNode

from common.options import MOST_EPOCHS, Section, defaults_of, option, options_of

_C = Section()

_C.SEED = option(0, "of weights, sampling, augmentation and validation split", at_least=0, at_most=2**63 - 1)
_C.DEVICE = option("auto", "cuda, cpu, cuda:1, ...; auto takes CUDA if there is one",
                   form=(r"auto|cpu|(cuda|mps|xpu)(:\d\d?)?", "auto, cpu, cuda, mps or xpu, or with a number: cuda:1"))
_C.DETERMINISTIC = option(False, "only operators that give the same bits in every run; slower on CUDA")
_C.OUTPUT = option("runs/cmfn", "the run's folder: checkpoints, log, metrics, results")

_C.DATA = Section()
_C.DATA.NAME = option("sysu", "sysu, regdb, llcm or synthetic (the embedded data set); a name of data/dataset.py")
_C.DATA.ROOT = option("datasets/SYSU-MM01", "the folder that the data set's owners ship")
_C.DATA.SPLIT = option(1, "RegDB: which of its ten splits", at_least=1, at_most=10)
_C.DATA.HEIGHT = option(384, "image height in pixels, for training and test", at_least=16, at_most=4096)
_C.DATA.WIDTH = option(192, "image width in pixels", at_least=16, at_most=4096)
_C.DATA.JITTER = option(True, "colour jitter (0.5, 0.5, 0.5, 0.5) in training")
_C.DATA.GREY = option(0.5, "probability that a training image loses its colours", at_least=0, at_most=1)
_C.DATA.ERASING = option(0.5, "probability of random erasing", at_least=0, at_most=1)
_C.DATA.ERASING_AREA = option([0.2, 0.8], "smallest and largest part of the image that it takes",
                              above=0, below=1, rising=True)
_C.DATA.ERASING_FILL = option([0.485, 0.456, 0.406], "what it leaves in the normalised image, by channel",
                              at_least=-10, at_most=10)
_C.DATA.EXCHANGE = option("none", "of caj: VIS images shown a second time, their channels (or grey too) exchanged",
                          one_of=("none", "channels", "channels_and_grey"))
_C.DATA.CACHE = option("", "folder of resized images (scripts/prepare.py), memory-mapped; empty: none")
_C.DATA.WORKERS = option(8, "processes that load images; changes no batch", at_least=0, at_most=256)

_C.MODEL = Section()
_C.MODEL.NAME = option("cmfn", "the network, an entry of models/build.py")
_C.MODEL.BACKBONE = option("resnet50", "resnet50 is the paper's", one_of=("resnet50", "resnet34", "resnet18"))
_C.MODEL.STAGES = option(4, "shared ResNet stages: 4, or 3 for RegDB's shorter network", one_of=(3, 4))
_C.MODEL.PRETRAINED = option("imagenet", "imagenet, none, or the path of a torchvision state dict")
_C.MODEL.RECOMPUTE = option([], "parts computed again in the backward pass, to save memory")
_C.MODEL.POOL = option("average", "of the last map: average, gem (p = 3) or gem_learned (p of each channel)",
                       one_of=("average", "gem", "gem_learned"))
_C.MODEL.NON_LOCAL = option("one", "of agw and caj: one inner channel (the authors'), half of the channels, or none",
                            one_of=("one", "half", "none"))
_C.MODEL.HCE = Section()
_C.MODEL.HCE.ENABLED = option(True, "the context branch and its fusion (MFA); off builds neither")
_C.MODEL.HCE.DILATIONS = option([2, 3, 5], "of the three chained convolutions; as drawn: 1, 2, 3",
                                at_least=1, at_most=64)
_C.MODEL.HCE.THIRD = option("bottleneck", "third context stage: bottleneck (dilated), or hce as drawn",
                            one_of=("bottleneck", "hce"))
_C.MODEL.MFA = Section()
_C.MODEL.MFA.POSITIONS = option("halves", "position non-local: halves of the image apart, or all as drawn",
                                one_of=("halves", "all"))
_C.MODEL.MBUE = Section()
_C.MODEL.MBUE.ENABLED = option(True, "the two branches that make three views; off leaves the plain view")
_C.MODEL.MBUE.TOKEN_LAYOUT = option("reference", "global block: reference (the authors' memory order), or as drawn",
                                    one_of=("reference", "aligned"))
_C.MODEL.MBUE.SEPARATE_COMPRESSIONS = option(False, "branch 1 has two compressions, as drawn, not a shared one")
_C.MODEL.MBUE.CONTEXT_PATH = option(False, "a third path (conv3) in each branch, as drawn; nothing without CSC_CMA")
_C.MODEL.MBUE.DROPOUT = option(0.01, "on the three stacked views", at_least=0, below=1)
_C.MODEL.MBUE.DROP_PATH = option(0.1, "on the residuals of the global block", at_least=0, below=1)
_C.MODEL.CSC_CMA = Section()
_C.MODEL.CSC_CMA.ENABLED = option(True, "off: local and global map are averaged")
_C.MODEL.CSC_CMA.KEYS = option("local", "map of the cross attention's keys: local, or global as drawn",
                               one_of=("local", "global"))
_C.MODEL.DEE = Section()
_C.MODEL.DEE.DROPOUT = option(0.01, "of deen: on the three stacked views", at_least=0, below=1)

_C.LOSS = Section()
_C.LOSS.TRIPLET = option("batch_hard", "or weighted (agw), weighted_softmax (its paper), squared_difference (caj)",
                         one_of=("batch_hard", "weighted", "weighted_softmax", "squared_difference"))
_C.LOSS.TRIPLET_WEIGHT = option(1.0, "of it", at_least=0, at_most=1000)
_C.LOSS.TRIPLET_MARGIN = option(0.3, "of batch_hard: nearest negative farther than farthest positive",
                                at_least=0, at_most=100)
_C.LOSS.CPM_WEIGHT = option(0.8, "cross-modal centre alignment, λ1", at_least=0, at_most=1000)
_C.LOSS.CPM_MARGIN = option(0.2, "m of its hinges", at_least=0, at_most=100)
_C.LOSS.ORTHOGONAL_WEIGHT = option(0.01, "branch diversity, λ2", at_least=0, at_most=1000)
_C.LOSS.DCL_WEIGHTS = option([[0, 0.1], [11, 0.01], [21, 0.0]], "centre contrast: [first epoch, weight from then on]",
                             at_least=0, at_most=1000, from_start=True)
_C.LOSS.DIVERGENCE_WEIGHT = option(0.0, "of caj: visible logits from infrared ones (KL)", at_least=0, at_most=1000)

_C.SOLVER = Section()
_C.SOLVER.EPOCHS = option(151, "number of epochs", at_least=1, at_most=MOST_EPOCHS)
_C.SOLVER.IDENTITIES = option(6, "P, identities in a batch", at_least=1, at_most=1000)
_C.SOLVER.IMAGES = option(4, "K, images of each identity and modality in a batch", at_least=1, at_most=100)
_C.SOLVER.ACCUMULATION = option(1, "batches whose mean gradient makes an update", at_least=1, at_most=10_000)
_C.SOLVER.SYNC_BN = option(False, "batch norm over all processes' images instead of each one's own; CUDA only")
_C.SOLVER.BASE_LR = option(0.1, "learning rate of neck and classifier", at_least=0)
_C.SOLVER.BACKBONE_LR_FACTOR = option(0.1, "everything else learns at this fraction of it", at_least=0, at_most=100)
_C.SOLVER.MOMENTUM = option(0.9, "of SGD with Nesterov's rule", above=0, below=1)
_C.SOLVER.WEIGHT_DECAY = option(5e-4, "on every trained parameter", at_least=0, at_most=1)
_C.SOLVER.WARMUP_EPOCHS = option(10, "epoch e < this: rate × (e + 1) / this", at_least=0, at_most=MOST_EPOCHS)
_C.SOLVER.LR_STEPS = option([[20, 0.1], [80, 0.01]], "[first epoch, factor from then on]", at_least=0, at_most=100)
_C.SOLVER.PRECISION = option("float32", "bfloat16 and float16 are autocast; losses are float32 always",
                             one_of=("float32", "bfloat16", "float16"))
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
_C.TEST.RERANK = option(False, "k-reciprocal re-ranking (Zhong et al. 2017)")

_C.EMBEDDING = Section()
_C.EMBEDDING.DIM = option(0, "numbers of a compressed embedding (PCA learned on the training set); 0: none",
                          at_least=0, at_most=100_000)


OPTIONS = options_of(_C)  # by key, such as SOLVER.EPOCHS
_DEFAULTS = defaults_of(_C)


def get_defaults() -> CfgNode:
    return _DEFAULTS.clone()
