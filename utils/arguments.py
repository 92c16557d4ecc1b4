"""What the command line of a script may say; nothing here needs torch."""

import argparse
import math
from collections.abc import Callable


def count(least: int) -> Callable[[str], int]:
    """For argparse: a whole number of that size at least."""
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of {least} at least")
        return int(text)
    return parse


def duration(text: str) -> float:
    """For argparse: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value
