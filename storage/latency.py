"""Histograms of times in milliseconds. Buckets grow by the factor 2 ** (1/4), so a percentile is at most 9 %
off. Histograms with the same bounds are merged by adding their counts.
"""

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

_GROWTH: Final = 2 ** (1 / 4)
LOWS: Final = tuple(sorted({0, *(round(_GROWTH**step) for step in range(4 * 22 + 1))}))
"""The lower bounds of the buckets. The last one has all longer times: more than 70 minutes."""


def percentile(counts: Mapping[int, int], share: float) -> int | None:
    """The time that `share` of the requests did not exceed, in milliseconds: the middle of its bucket. None
    without requests. `counts` are by lower bound.
    """
    total = sum(counts.values())
    if not total:
        return None
    needed, seen = share * total, 0
    for low in sorted(counts):
        seen += counts[low]
        if seen >= needed:
            return _middle(low)
    return _middle(max(counts))


def _middle(low: int) -> int:
    position = bisect_right(LOWS, low)
    return low if position == len(LOWS) else round((low + LOWS[position] - 1) / 2)
