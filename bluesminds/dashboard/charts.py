"""Charts as SVG that fits any width without a script: bars in a stretched viewBox, texts outside of it.

A chart is a picture of a table. The table is in the page as well, for screen readers and for the script that
shows values.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Final

from msgspec import Struct

HEIGHT: Final = 1000  # units of the viewBox; the style sheet sets the height on the page
STEP: Final = 100  # units per slot
_BAR: Final = 78  # of STEP
_MAX_LABELS: Final = 7


class ChartSeries(Struct, frozen=True):
    """`tone` is a colour of the style sheet: 1 to 5, or 0 for the sum of the others."""

    name: str
    values: Sequence[int]
    tone: int


class Tick(Struct, frozen=True):
    """`at` is in percent."""

    at: str
    label: str


class StackedChart(Struct, frozen=True):
    """`labels` are those of the slots, `axis` the ticks of the values, `slots` those of the labels that are
    shown. `write` writes a value.
    """

    labels: Sequence[str]
    series: Sequence[ChartSeries]
    paths: Sequence[str]
    axis: Sequence[Tick]
    slots: Sequence[Tick]
    totals: Sequence[int]
    write: Callable[[int], str]

    @property
    def width(self) -> int:
        return len(self.labels) * STEP


def stacked(
    labels: Sequence[str],
    series: Sequence[ChartSeries],
    write: Callable[[int], str],
    write_axis: Callable[[int], str],
) -> StackedChart:
    """`labels` is not empty; each series has a value of 0 or more for each label."""
    totals = [sum(one.values[slot] for one in series) for slot in range(len(labels))]
    most = max(totals)
    step, top = axis_scale(most)
    lines = range(0, top + 1, step) if most else range(1)
    base = [0] * len(labels)
    paths = []
    for one in series:
        bars = []
        for slot, value in enumerate(one.values):
            low, base[slot] = base[slot], base[slot] + value
            y, end = (round(HEIGHT - at * HEIGHT / top) for at in (base[slot], low))
            if end > y:
                bars.append(f"M{slot * STEP + (STEP - _BAR) // 2} {y}h{_BAR}v{end - y}h-{_BAR}z")
        paths.append("".join(bars))
    every = ceil(len(labels) / _MAX_LABELS)
    return StackedChart(
        labels=labels,
        series=series,
        paths=paths,
        axis=[Tick(f"{100 - at * 100 / top:.2f}%", write_axis(at)) for at in lines],
        slots=[
            Tick(f"{(slot + 0.5) * 100 / len(labels):.2f}%", labels[slot])
            for slot in range(len(labels) - 1, -1, -every)
        ],
        totals=totals,
        write=write,
    )


def sparkline(values: Sequence[int], width: int = 120, height: int = 28) -> str:
    """The points of a polyline."""
    most = max(values, default=0) or 1
    step = width / max(len(values) - 1, 1)
    return " ".join(
        f"{slot * step:.1f},{height - 2 - value * (height - 4) / most:.1f}"
        for slot, value in enumerate(values)
    )


def axis_scale(most: int, lines: int = 4) -> tuple[int, int]:
    """A step of 1, 2, 2.5 or 5 times a power of ten, and the end of the axis, which is at least `most`."""
    most = max(most, 1)
    power = 10 ** max(len(str(most // lines)) - 1, 0)
    steps = (tenths * power // 10 for tenths in (10, 20, 25, 50, 100) if tenths * power % 10 == 0)
    step = next(step for step in steps if step * lines >= most)
    return step, -(-most // step) * step
