"""Numbers of a command's options, as types of argparse: what cannot be meant is refused with the option's name."""

from __future__ import annotations

import argparse
import math


def count(text: str) -> int:
    """A whole number above 0.

    >>> count("3")
    3
    """
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def amount(text: str) -> float:
    """A number from 0 on, infinity included.

    >>> amount("0"), amount("2.5"), amount("inf")
    (0.0, 2.5, inf)
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return number


def positive(text: str) -> float:
    """A finite number above 0.

    >>> positive("1e-3")
    0.001
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number
