"""The errors that end a program with one line."""

from configs.load import ConfigError
from data.records import DataError
from models.network import MethodError
from models.parts.backbone import PretrainedError
from models.parts.mfa import ImageSizeError
from utils.evaluation.evaluator import EvaluationError
from utils.lock import LockedError
from utils.output import OutputError
from utils.training.checkpoint import CheckpointError
from utils.training.distributed import RankLostError, RanksError
from utils.training.loaders import LoaderError
from utils.training.run import DeviceError, OutOfMemory

EXPECTED_ERRORS = (
    CheckpointError, ConfigError, DataError, DeviceError, EvaluationError, ImageSizeError, LoaderError, LockedError,
    MethodError, OutOfMemory, OutputError, PretrainedError, RankLostError, RanksError,
)
