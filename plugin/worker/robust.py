"""Statistics that a minority of wild values doesn't move."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def deviation(errors: NDArray[Any]) -> float:
    """The standard deviation of most of the errors, whatever the others are (from the median)."""
    return 1.4826 * quantile(np.abs(errors), 0.5)


def quantile(values: NDArray[Any], share: float) -> float:
    """That one of the values below which such a share of them lies."""
    # NumPy's own loads its masked arrays first, for 25 ms.
    place = int(share * (values.size - 1))
    return float(np.partition(values, place, axis=None)[place])


def tukey(values: NDArray[Any]) -> NDArray[Any]:
    """Tukey's biweight, for robust fits: 1 where `values` are 0, and 0 from 1 on."""
    return np.clip(1 - values**2, 0, None) ** 2
