"""Every option, one line of explanation each; the yaml files in this folder override them."""

from yacs.config import CfgNode

_C = CfgNode()

_C.SEED = 0                         # of weights, sampling, augmentation and validation split
_C.DEVICE = "auto"                  # cuda, cpu, cuda:1, ...; auto takes CUDA if there is one
_C.DETERMINISTIC = False            # only operators that give the same bits in every run; slower on CUDA
_C.OUTPUT = "runs/cmfn"             # the run's folder: checkpoints, log, metrics, results

_C.DATA = CfgNode()
_C.DATA.NAME = "sysu"               # sysu, regdb, llcm or synthetic (the embedded data set)
_C.DATA.ROOT = "datasets/SYSU-MM01"  # the folder that the data set's owners ship
_C.DATA.SPLIT = 1                   # RegDB: which of its ten splits, 1 to 10
_C.DATA.HEIGHT = 384                # image height in pixels, for training and test
_C.DATA.WIDTH = 192                 # image width in pixels
_C.DATA.JITTER = True               # colour jitter (0.5, 0.5, 0.5, 0.5) in training
_C.DATA.GREY = 0.5                  # probability that a training image loses its colours
_C.DATA.ERASING = 0.5               # probability of random erasing
_C.DATA.ERASING_AREA = [0.2, 0.8]   # smallest and largest part of the image that it takes
_C.DATA.ERASING_FILL = [0.485, 0.456, 0.406]  # what it leaves in the normalised image, by channel
_C.DATA.EXCHANGE = "none"           # of caj: channels, or channels_and_grey: VIS images shown a second time, exchanged
_C.DATA.CACHE = ""                  # folder of resized images (scripts/prepare.py), memory-mapped; empty: none
_C.DATA.WORKERS = 8                 # processes that load images; changes no batch

_C.MODEL = CfgNode()
_C.MODEL.NAME = "cmfn"              # the network, an entry of models/build.py
_C.MODEL.BACKBONE = "resnet50"      # resnet50 (the paper's), resnet34 or resnet18
_C.MODEL.STAGES = 4                 # shared ResNet stages: 4, or 3 for RegDB's shorter network
_C.MODEL.PRETRAINED = "imagenet"    # imagenet, none, or the path of a torchvision state dict
_C.MODEL.RECOMPUTE = []             # parts computed again in the backward pass, to save memory
_C.MODEL.POOL = "average"           # of the last map: average, gem (p = 3) or gem_learned (p of each channel)
_C.MODEL.NON_LOCAL = "one"          # of agw and caj: one inner channel (the authors'), half of the channels, or none
_C.MODEL.HCE = CfgNode()
_C.MODEL.HCE.ENABLED = True         # the context branch and its fusion (MFA); off builds neither
_C.MODEL.HCE.DILATIONS = [2, 3, 5]  # of the three chained convolutions; as drawn: 1, 2, 3
_C.MODEL.HCE.THIRD = "bottleneck"   # third context stage: bottleneck (dilated), or hce as drawn
_C.MODEL.MFA = CfgNode()
_C.MODEL.MFA.POSITIONS = "halves"   # position non-local: halves of the image apart, or all as drawn
_C.MODEL.MBUE = CfgNode()
_C.MODEL.MBUE.ENABLED = True        # the two branches that make three views; off leaves the plain view
_C.MODEL.MBUE.TOKEN_LAYOUT = "reference"     # global block: reference (the authors' memory order), or aligned as drawn
_C.MODEL.MBUE.SEPARATE_COMPRESSIONS = False  # branch 1 has two compressions, as drawn, instead of a shared one
_C.MODEL.MBUE.CONTEXT_PATH = False  # a third path (conv3) in each branch, as drawn; needs CSC_CMA
_C.MODEL.MBUE.DROPOUT = 0.01        # on the three stacked views
_C.MODEL.MBUE.DROP_PATH = 0.1       # on the residuals of the global block
_C.MODEL.CSC_CMA = CfgNode()
_C.MODEL.CSC_CMA.ENABLED = True     # off: local and global map are averaged
_C.MODEL.CSC_CMA.KEYS = "local"     # map of the cross attention's keys: local, or global as drawn
_C.MODEL.DEE = CfgNode()
_C.MODEL.DEE.DROPOUT = 0.01         # of deen: on the three stacked views

_C.LOSS = CfgNode()
_C.LOSS.TRIPLET = "batch_hard"      # or weighted (agw), weighted_softmax (its paper), squared_difference (caj)
_C.LOSS.TRIPLET_WEIGHT = 1.0        # of it
_C.LOSS.TRIPLET_MARGIN = 0.3        # of batch_hard: nearest negative farther than farthest positive
_C.LOSS.CPM_WEIGHT = 0.8            # cross-modal centre alignment, λ1
_C.LOSS.CPM_MARGIN = 0.2            # m of its hinges
_C.LOSS.ORTHOGONAL_WEIGHT = 0.01    # branch diversity, λ2
_C.LOSS.DCL_WEIGHTS = [[0, 0.1], [11, 0.01], [21, 0.0]]  # centre contrast: [first epoch, weight from then on], ...
_C.LOSS.DIVERGENCE_WEIGHT = 0.0     # of caj: visible logits from infrared ones (KL)

_C.SOLVER = CfgNode()
_C.SOLVER.EPOCHS = 151              # number of epochs
_C.SOLVER.IDENTITIES = 6            # P, identities in a batch
_C.SOLVER.IMAGES = 4                # K, images of each identity and modality in a batch
_C.SOLVER.ACCUMULATION = 1          # batches whose mean gradient makes an update
_C.SOLVER.SYNC_BN = False           # batch norm over all processes' images instead of each one's own; CUDA only
_C.SOLVER.BASE_LR = 0.1             # learning rate of neck and classifier
_C.SOLVER.BACKBONE_LR_FACTOR = 0.1  # everything else learns at this fraction of it
_C.SOLVER.MOMENTUM = 0.9            # of SGD with Nesterov's rule
_C.SOLVER.WEIGHT_DECAY = 5e-4       # on every trained parameter
_C.SOLVER.WARMUP_EPOCHS = 10        # epoch e < this: rate × (e + 1) / this
_C.SOLVER.LR_STEPS = [[20, 0.1], [80, 0.01]]  # [first epoch, factor from then on], ...
_C.SOLVER.PRECISION = "float32"     # float32, bfloat16 or float16 (both autocast); losses are float32 always
_C.SOLVER.LOG_PERIOD = 10           # steps between updates of the progress bar
_C.SOLVER.VALIDATION_IDS = 0        # training identities held out to choose the best epoch; 0: the last one counts
_C.SOLVER.EVAL_PERIOD = 5           # epochs between validations, where there is one
_C.SOLVER.CHOOSE_BEST_ON_TEST_DATA = False  # as the field's code does; inflates the figures, so never the default

_C.TEST = CfgNode()
_C.TEST.PROTOCOLS = []              # names as test.py prints them, all, or empty for the data set's usual ones
_C.TEST.FLIP = True                 # add the features of the mirrored image
_C.TEST.WEIGHTINGS = []             # of pooled and neck features; empty: each that the network has, the reported first
_C.TEST.BATCH = 64                  # images in a forward pass
_C.TEST.RERANK = False              # k-reciprocal re-ranking (Zhong et al. 2017)

_C.EMBEDDING = CfgNode()
_C.EMBEDDING.DIM = 0                # numbers of a compressed embedding (PCA learned on the training set); 0: none


def get_defaults() -> CfgNode:
    return _C.clone()


# The options that take one of a few words, or some of them.
CHOICES = {
    "DATA.EXCHANGE": ("none", "channels", "channels_and_grey"),
    "MODEL.BACKBONE": ("resnet50", "resnet34", "resnet18"),
    "MODEL.STAGES": (3, 4),
    "MODEL.POOL": ("average", "gem", "gem_learned"),
    "MODEL.NON_LOCAL": ("one", "half", "none"),
    "MODEL.HCE.THIRD": ("bottleneck", "hce"),
    "MODEL.MFA.POSITIONS": ("halves", "all"),
    "MODEL.MBUE.TOKEN_LAYOUT": ("reference", "aligned"),
    "MODEL.CSC_CMA.KEYS": ("local", "global"),
    "LOSS.TRIPLET": ("batch_hard", "weighted", "weighted_softmax", "squared_difference"),
    "SOLVER.PRECISION": ("float32", "bfloat16", "float16"),
}

# The options that count something there must be one of.
COUNTS = (
    "DATA.HEIGHT", "DATA.WIDTH", "SOLVER.EPOCHS", "SOLVER.IDENTITIES", "SOLVER.IMAGES", "SOLVER.ACCUMULATION",
    "SOLVER.LOG_PERIOD", "SOLVER.EVAL_PERIOD", "TEST.BATCH",
)
