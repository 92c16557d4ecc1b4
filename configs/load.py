"""A yaml file and command-line overrides over the defaults; what is wrong in them is named with the mend."""

import ast
import difflib
from pathlib import Path

import yaml
from yacs.config import CfgNode

from configs.defaults import CHOICES, COUNTS, get_defaults


class ConfigError(ValueError):
    """A key or a value that the configuration doesn't know."""


def load_config(file: str | Path | None = None, overrides: list[str] = (), base: CfgNode | None = None) -> CfgNode:
    """The frozen configuration.

    file        a yaml file, or None
    overrides   "KEY", "VALUE", ... as on the command line, e.g. ["SOLVER.EPOCHS", "20"]
    base        what they override; the defaults if not given
    raises      ConfigError that names the file, the key and the nearest right one
    """
    cfg = get_defaults() if base is None else base.clone()
    cfg.defrost()
    if file is not None:
        for key, value in flatten(read_yaml(file)):
            set_option(cfg, key, value, source=str(file))
    if len(overrides) % 2:
        raise ConfigError(f"options on the command line come in pairs, KEY VALUE; {overrides[-1]!r} stands alone")
    for key, text in zip(overrides[::2], overrides[1::2]):
        set_option(cfg, key, parse(text), source="the command line")
    cfg.freeze()
    return cfg


def from_dump(text: str) -> CfgNode:
    """The configuration that `cfg.dump()` wrote, e.g. into a checkpoint.

    raises   ConfigError
    """
    try:
        options = yaml.safe_load(text)
    except (yaml.YAMLError, AttributeError):  # of no text
        options = None
    if not isinstance(options, dict):
        raise ConfigError("the checkpoint's configuration is damaged: it is no yaml of sections and keys")
    cfg = get_defaults()
    for key, value in flatten(options):
        set_option(cfg, key, value, source="the checkpoint's configuration")
    cfg.freeze()
    return cfg


def differences(a: CfgNode, b: CfgNode) -> list[str]:
    """'KEY: value in a, value in b' for each option whose values differ."""
    other = dict(flatten(b))
    return [f"{key}: {value!r}, {other[key]!r}" for key, value in flatten(a) if value != other[key]]


def read_yaml(file: str | Path) -> dict:
    try:
        options = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(str(p) for p in Path(__file__).parent.glob("*.yaml")))
        raise ConfigError(f"there is no configuration file {file}; there are {known}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{file} is not a readable yaml file: {error}") from None
    if not isinstance(options, dict):
        raise ConfigError(f"{file} must hold sections and keys like those of configs/defaults.py")
    return options


def flatten(options: dict, prefix: str = "") -> list[tuple[str, object]]:
    pairs = []
    for key, value in options.items():
        pairs += flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


def parse(text: str) -> object:
    """A command-line value: a Python literal, true or false, else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def like(default: object, value: object) -> bool:
    """Whether a value has the form of an option's default: as many numbers, any number of such lists, or words."""
    if not isinstance(default, list):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if not isinstance(value, list):
        return False
    if not default:
        return all(isinstance(word, str) for word in value)
    if isinstance(default[0], list):
        return all(like(default[0], part) for part in value)
    return len(value) == len(default) and all(map(like, default, value))


def set_option(cfg: CfgNode, key: str, value: object, source: str) -> None:
    known = dict(flatten(get_defaults()))
    if key not in known:
        inside = [k for k in known if k.startswith(f"{key}.")]  # a section's name alone
        near = (inside or difflib.get_close_matches(key, known, n=1, cutoff=0.0))[0]
        raise ConfigError(
            f"{source} sets {key}, which is not an option; the nearest is {near} (see configs/defaults.py)"
        )
    default = known[key]
    if isinstance(value, str) and isinstance(default, float):
        value = parse(value)  # yaml reads 5e-4 as text
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        wanted, got = type(default).__name__, type(value).__name__
        raise ConfigError(f"{source} sets {key} to {value!r}, {got} where {wanted} is wanted, such as {default!r}")
    if isinstance(value, list) and not like(default, value):
        raise ConfigError(f"{source} sets {key} to {value!r}, where {default or ['a list of words']!r} would do")
    if key in CHOICES:
        some = isinstance(value, list)
        if not set(value if some else [value]) <= set(CHOICES[key]):
            words = f"{'some' if some else 'one'} of {', '.join(map(str, CHOICES[key]))}"
            raise ConfigError(f"{source} sets {key} to {value!r}; it is {words}")
    if key in COUNTS and value < 1:
        raise ConfigError(f"{source} sets {key} to {value!r}; it is 1 at least")
    if key.endswith("_WEIGHT") and value < 0:
        raise ConfigError(f"{source} sets {key} to {value!r}; it is 0 at least")
    section, _, name = key.rpartition(".")
    node = cfg
    for part in section.split(".") if section else []:
        node = node[part]
    node[name] = value
