"""Checks of arguments, with messages that name the admissible range."""

import math
from numbers import Real


def check_number(
    name: str, value: float, low: float = -math.inf, high: float = math.inf, ends: str = "()"
) -> float:
    """Return value, or raise ValueError unless it is between low and high ("[": inclusive)."""
    if isinstance(value, Real) and not isinstance(value, bool):
        above = low <= value if ends[0] == "[" else low < value
        below = value <= high if ends[1] == "]" else value < high
        if above and below:
            return float(value)
    interval = f"{ends[0]}{low:g}, {high:g}{ends[1]}"
    raise ValueError(f"{name} must be a number in {interval}, got {value!r}")
