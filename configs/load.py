"""A yaml file and command-line overrides over the defaults; what is wrong in them is named with how to fix it."""

import difflib
import itertools
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from common.options import parse
from configs.defaults import OPTIONS, OWNERS, get_defaults
from configs.shorthands import SHORTHANDS
from data.transforms import read_step

DECLARED = OPTIONS | {key: short.option for key, short in SHORTHANDS.items()}  # whatever may be set, by key
METHODS = {*itertools.chain(*OWNERS.values())}


class ConfigError(ValueError):
    """A key or a value that the configuration doesn't know."""


def load_config(file: str | Path | None = None, overrides: Sequence[str] = (), base: CfgNode | None = None) -> CfgNode:
    """The frozen configuration.

    file        a yaml file, or None. Its BASE names another one, from its own folder on, over which it stands
    overrides   "KEY", "VALUE", ... as on the command line, e.g. ["SOLVER.EPOCHS", "20"]. Where they choose another
                method than the file, what it sets for its own method alone falls back to the defaults
    base        what they override; the defaults if not given
    raises      ConfigError that names the file, the key, the nearest right one or the allowed values
    """
    cfg, files = get_defaults() if base is None else base.clone(), {}
    cfg.defrost()
    for source in [] if file is None else with_bases(file):
        for key, value in read_yaml(read_text(source), str(source)):
            if key != "BASE":
                set_option(cfg, key, value, str(source))
                files[key] = str(source)
    for key, named in files.items():
        check_owner(key, cfg.MODEL.NAME, named)
    for key, text in zip_longest(overrides[::2], overrides[1::2]):
        check_key(key, source="the command line")
        if text is None:
            raise ConfigError(f"options on the command line come in pairs, KEY VALUE; {key!r} stands alone")
        if text in DECLARED:
            raise ConfigError(f"the command line sets {key} to {text!r}, which is an option: a value is missing")
        set_option(cfg, key, parse(text), source="the command line")
    for key in overrides[::2]:
        check_owner(key, cfg.MODEL.NAME, "the command line")
        check_effect(key, cfg, "the command line")  # a file may have all that its method has
    for key in files:
        if not is_read(key, cfg.MODEL.NAME):
            set_option(cfg, key, OPTIONS[key].default, source="the defaults")
    cfg.freeze()
    return cfg


def with_bases(file: str | Path) -> list[Path]:
    """The file after its BASE, and that after its own.

    raises   ConfigError, for a BASE of its own too
    """
    files = [Path(file)]
    while True:
        first = files[0]
        base = dict(read_yaml(read_text(first), str(first))).get("BASE")
        if base is None:
            return files
        if not isinstance(base, str):
            raise ConfigError(f"{first} sets BASE to {shown(base)}; it is the path of a yaml file")
        path = first.parent / base
        if not path.exists():
            raise ConfigError(f"{first} has the BASE {base}, and there is no file {path}")
        if path.resolve() in [file.resolve() for file in files]:  # it may be written in several ways
            raise ConfigError(f"{first} has the BASE {base}, whose BASE it is itself")
        files.insert(0, path)


def is_read(key: str, method: str) -> bool:
    """Whether a method reads an option; of an unknown one, models/build.py says that there is none."""
    return key not in OWNERS or method in OWNERS[key] or method not in METHODS


def check_owner(key: str, method: str, source: str) -> None:
    """
    raises   ConfigError where the method does not read the option
    """
    if not is_read(key, method):
        raise ConfigError(
            f"{source} sets {key}, which {method} does not read; it is an option of {', '.join(sorted(OWNERS[key]))}"
        )


def check_effect(key: str, cfg: CfgNode, source: str) -> None:
    """
    raises   ConfigError where nothing reads the option, with what the others are
    """
    if key in SHORTHANDS:
        step = SHORTHANDS[key].step
        views = [*cfg.DATA.VISIBLE, *cfg.DATA.INFRARED]
        if step and not any(read_step(each)[0] == step for view in views for each in view):
            raise ConfigError(f"{source} sets {key}, which changes nothing: no view has the step {step}")
    elif DECLARED[key].goes_with:
        other, *values = DECLARED[key].goes_with
        found = dict(flatten(cfg))[other]
        if str(found).partition("-")[0] not in values:  # folder-NAME is a folder
            raise ConfigError(
                f"{source} sets {key}, which changes nothing: it goes with {other} {' or '.join(values)}, "
                f"and that is {found}"
            )


def as_yaml(cfg: CfgNode) -> str:
    """The configuration as a file for --config: all that its method reads."""
    options: dict = {}
    for key, value in flatten(cfg):
        if is_read(key, cfg.MODEL.NAME):
            *sections, name = key.split(".")
            node = options
            for section in sections:
                node = node.setdefault(section, {})
            node[name] = value
    return yaml.safe_dump(options, default_flow_style=None)


def explained(method: str) -> str:
    """The options that a method reads, one a line: its recipe's value (configs/methods), explanation, what is allowed.

    raises   ConfigError for an unknown method
    """
    recipes = {path.stem: path for path in Path(__file__).parent.glob("methods/*.yaml")}
    if method not in recipes:
        raise ConfigError(f"there is no method {method!r}; there are {', '.join(sorted(recipes))}")
    cfg = load_config(recipes[method])
    values = dict(flatten(cfg))
    lines = [
        f"{key}: {values[key]!r}\n    {declared.explanation}. It is {declared.allowed}"
        for key, declared in OPTIONS.items() if is_read(key, cfg.MODEL.NAME)
    ]
    return "\n".join(lines)


def from_dump(text: str) -> CfgNode:
    """The configuration that `cfg.dump()` wrote, e.g. into a checkpoint.

    raises   ConfigError as `load_config`
    """
    cfg, source = get_defaults(), "the checkpoint's configuration"
    if not isinstance(text, str):
        raise ConfigError(f"{source} is damaged: it is no text")
    pairs = read_yaml(text, source)
    method = str(dict(pairs).get("MODEL.NAME", cfg.MODEL.NAME))
    for key, value in pairs:
        if is_read(key, method):  # of other methods it holds what nobody read
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
        known = {path.stem: path for path in Path(__file__).parent.glob("*.yaml")}
        near = known[difflib.get_close_matches(Path(file).stem, sorted(known), n=1, cutoff=0.0)[0]]
        raise ConfigError(
            f"there is no configuration file {file}; the nearest is {near}, and its folder has them all"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise ConfigError(f"{file} is not a readable yaml file: {error}") from None


class EachKeyOnce(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which yaml's own loaders take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
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
    pairs: list[tuple[str, object]] = []
    for key, value in options.items():
        inside = isinstance(value, dict) and value
        pairs += flatten(value, f"{prefix}{key}.") if inside else [(f"{prefix}{key}", value)]
    return pairs


def check_key(key: str, source: str) -> None:
    """
    raises   ConfigError that names the nearest option, where this is none
    """
    if key in DECLARED:
        return
    name, equals, value = key.partition("=")
    if equals and name in DECLARED:
        raise ConfigError(f"{source} has {key!r}; key and value are two words: {name} {value}")
    inside = [k for k in OPTIONS if k.startswith(f"{key}.")]  # a section's name alone
    near = (inside or difflib.get_close_matches(key, OPTIONS, n=1, cutoff=0.0))[0]
    raise ConfigError(
        f"{source} sets {key}, which is not an option; the nearest is {near}; train.py --explain METHOD prints them all"
    )


def set_option(cfg: CfgNode, key: str, value: object, source: str) -> None:
    """
    source   who sets it: a file's path, the command line, a checkpoint
    raises   ConfigError
    """
    check_key(key, source)
    value = DECLARED[key].read(value)
    refusal = DECLARED[key].refusal(value)
    if refusal:
        raise ConfigError(f"{source} sets {key} to {shown(value)}{refusal}")
    if key in SHORTHANDS:
        SHORTHANDS[key].apply(cfg.DATA, value)
        return
    *sections, name = key.split(".")
    node = cfg
    for section in sections:
        node = node[section]
    node[name] = value


def shown(value: object) -> str:
    """Its repr, shortened where that is very long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 300 else f"{text[:200]} ... {text[-80:]}"
