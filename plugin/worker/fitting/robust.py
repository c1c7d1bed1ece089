"""Compute robust statistics, which hardly change if a minority of the values is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def deviation(errors: NDArray[Any]) -> float:
    """Return a robust estimate of the standard deviation of `errors` around 0.

    The estimate is 1.4826 times the median of the absolute errors. If the errors are normally
    distributed, the estimate equals the standard deviation. A few extreme errors hardly change it.
    """
    return 1.4826 * quantile(np.abs(errors), 0.5)


def quantile(values: NDArray[Any], share: float) -> float:
    """Return the value in `values` below which the `share` (from 0 to 1) of all values lies.

    The quantile is not interpolated: it is always one of the values.
    """
    # NumPy's own function is not used, because its first call imports a module for 25 ms.
    place = int(share * (values.size - 1))
    return float(np.partition(values, place, axis=None)[place])


def tukey(values: NDArray[Any]) -> NDArray[Any]:
    """Return weights for a robust fit (Tukey's biweight), given relative errors `values`.

    The weight is 1 if the error is 0, and falls to 0 if the error is -1, 1 or farther from 0.
    """
    return np.clip(1 - values**2, 0, None) ** 2
