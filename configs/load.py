"""A yaml file and command-line overrides over the defaults; what is wrong in them is named with how to fix it."""

import ast
import difflib
from itertools import zip_longest
from pathlib import Path

import yaml
from yacs.config import CfgNode

from configs.defaults import OPTIONS, get_defaults


class ConfigError(ValueError):
    """A key or a value that the configuration doesn't know."""


def load_config(file: str | Path | None = None, overrides: list[str] = (), base: CfgNode | None = None) -> CfgNode:
    """The frozen configuration.

    file        a yaml file, or None
    overrides   "KEY", "VALUE", ... as on the command line, e.g. ["SOLVER.EPOCHS", "20"]
    base        what they override; the defaults if not given
    raises      ConfigError that names the file, the key, the nearest right one or the allowed values
    """
    cfg = get_defaults() if base is None else base.clone()
    cfg.defrost()
    if file is not None:
        for key, value in read_yaml(read_text(file), source=str(file)):
            set_option(cfg, key, value, source=str(file))
    for key, text in zip_longest(overrides[::2], overrides[1::2]):
        check_key(key, source="the command line")
        if text is None:
            raise ConfigError(f"options on the command line come in pairs, KEY VALUE; {key!r} stands alone")
        if text in OPTIONS:
            raise ConfigError(f"the command line sets {key} to {text!r}, which is an option: a value is missing")
        set_option(cfg, key, parse(text), source="the command line")
    cfg.freeze()
    return cfg


def from_dump(text: str) -> CfgNode:
    """The configuration that `cfg.dump()` wrote, e.g. into a checkpoint.

    raises   ConfigError as `load_config`
    """
    cfg, source = get_defaults(), "the checkpoint's configuration"
    if not isinstance(text, str):
        raise ConfigError(f"{source} is damaged: it is no text")
    for key, value in read_yaml(text, source):
        set_option(cfg, key, value, source)
    cfg.freeze()
    return cfg


def differences(a: CfgNode, b: CfgNode) -> list[str]:
    """'KEY: value in a, value in b' for each option whose values differ."""
    other = dict(flatten(b))
    return [f"{key}: {value!r}, {other[key]!r}" for key, value in flatten(a) if value != other[key]]


def read_text(file: str | Path) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(sorted(str(p) for p in Path(__file__).parent.glob("*.yaml")))
        raise ConfigError(f"there is no configuration file {file}; there are {known}") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise ConfigError(f"{file} is not a readable yaml file: {error}") from None


class EachKeyOnce(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which yaml's own loaders take the last."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(None, None, f"{key} is set twice", node.start_mark)
        return node


def read_yaml(text: str, source: str) -> list[tuple[str, object]]:
    """(key, value) of each option that a yaml text sets.

    raises   ConfigError naming the source
    """
    try:
        options = yaml.load(text, EachKeyOnce)
        pairs = flatten(options) if isinstance(options, dict) else []
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or number out of Python's range
        raise ConfigError(f"{source} is not a readable yaml file: {error}") from None
    if not pairs:
        raise ConfigError(f"{source} must hold sections and keys like those of configs/defaults.py")
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:  # once as SECTION.KEY, once in its section
            raise ConfigError(f"{source} sets {key} twice")
    return pairs


def flatten(options: dict, prefix: str = "") -> list[tuple[str, object]]:
    """(SECTION.KEY, value) of nested sections; an empty one is a value of its own."""
    pairs = []
    for key, value in options.items():
        inside = isinstance(value, dict) and value
        pairs += flatten(value, f"{prefix}{key}.") if inside else [(f"{prefix}{key}", value)]
    return pairs


def parse(text: str) -> object:
    """A command-line value: a Python literal, true or false, else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def check_key(key: str, source: str) -> None:
    """
    raises   ConfigError that names the nearest option, where this is none
    """
    if key in OPTIONS:
        return
    name, equals, value = key.partition("=")
    if equals and name in OPTIONS:
        raise ConfigError(f"{source} has {key!r}; key and value are two words: {name} {value}")
    inside = [k for k in OPTIONS if k.startswith(f"{key}.")]  # a section's name alone
    near = (inside or difflib.get_close_matches(key, OPTIONS, n=1, cutoff=0.0))[0]
    raise ConfigError(f"{source} sets {key}, which is not an option; the nearest is {near} (see configs/defaults.py)")


def set_option(cfg: CfgNode, key: str, value: object, source: str) -> None:
    """
    source   who sets it: a file's path, the command line, a checkpoint
    raises   ConfigError
    """
    check_key(key, source)
    value = read_as(OPTIONS[key].default, value)
    refusal = OPTIONS[key].refusal(value)
    if refusal:
        raise ConfigError(f"{source} sets {key} to {shown(value)}{refusal}")
    *sections, name = key.split(".")
    node = cfg
    for section in sections:
        node = node[section]
    node[name] = value


def read_as(default: object, value: object) -> object:
    """The value as an option of that default has it: lists for tuples, a float where a whole number is written."""
    if isinstance(value, (list, tuple)):
        value = [list(part) if isinstance(part, tuple) else part for part in value]
    if isinstance(value, str) and isinstance(default, float):
        value = parse(value)  # yaml reads 5e-4 as text
    if isinstance(default, float) and type(value) is int and abs(value) < 1e300:
        value = float(value)
    return value


def shown(value: object) -> str:
    """Its repr, shortened where that is very long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 300 else f"{text[:200]} ... {text[-80:]}"
