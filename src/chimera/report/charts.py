"""The drawings: rates with their intervals, latency distributions, costs. Inline SVG, coloured by
the style sheet. Every drawing has a title and says its numbers as text too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from chimera.report.markup import Node, h

WIDTH = 720.0
LABEL = 190.0
ROW = 30.0
_STEPS = (1, 2, 2.5, 5, 10)
TEXT_MAX = 30


@dataclass(frozen=True, slots=True)
class Interval:
    """A rate with its interval, 0 to 1; `rate` None: nothing was scored."""

    label: str
    rate: float | None
    low: float
    high: float
    note: str


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    value: float
    note: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """Values with their median and 95th percentile, which may be of more values than are given."""

    label: str
    values: Sequence[float]
    p50: float
    p95: float


def intervals(title: str, rows: Sequence[Interval]) -> Node:
    """A bar to the rate and a line over its interval, per row."""
    left, right = LABEL, WIDTH - 170
    span = right - left
    bottom = ROW * len(rows)
    parts = [_grid(left + span * tick / 4, bottom, f"{tick * 25} %") for tick in range(5)]
    for number, row in enumerate(rows):
        y = ROW * number + ROW / 2
        parts.append(_label(row.label, y))
        if row.rate is not None:
            low, high = left + span * row.low, left + span * row.high
            at = left + span * row.rate
            parts += [
                h(
                    "rect",
                    class_="bar",
                    x=left,
                    y=y - 6,
                    width=max(at - left, 1.0),
                    height=12.0,
                    rx=2.0,
                ),
                h("line", class_="whisker", x1=low, x2=high, y1=y, y2=y),
                h("line", class_="whisker", x1=low, x2=low, y1=y - 5, y2=y + 5),
                h("line", class_="whisker", x1=high, x2=high, y1=y - 5, y2=y + 5),
                h("circle", class_="point", cx=at, cy=y, r=3.5),
            ]
        parts.append(_note(row.note, right + 12, y))
    return _figure(title, parts, bottom + 24)


def bars(title: str, rows: Sequence[Bar], unit: str) -> Node:
    """A bar per row, from nothing to the largest value. unit: stands before the axis numbers."""
    left, right = LABEL, WIDTH - 190
    bottom = ROW * len(rows)
    ticks = _ticks(max((row.value for row in rows), default=0))
    scale = (right - left) / ticks[-1]
    parts = [_grid(left + tick * scale, bottom, f"{unit}{tick:g}") for tick in ticks]
    for number, row in enumerate(rows):
        y = ROW * number + ROW / 2
        width = max(row.value * scale, 1.0)
        parts += [
            _label(row.label, y),
            h("rect", class_="bar cost", x=left, y=y - 7, width=width, height=14.0, rx=2.0),
            _note(row.note, left + width + 8 if row.value * scale < 1 else right + 12, y),
        ]
    return _figure(title, parts, bottom + 24)


def distributions(title: str, rows: Sequence[Distribution], unit: str) -> Node:
    """A histogram per row over one axis, with median and 95th percentile marked. The axis ends a
    little after the largest 99th percentile; what lies beyond is counted in the last column."""
    left, right, height = LABEL, WIDTH - 150, 46.0
    ends = [_percentile(row.values, 0.99) for row in rows if row.values]
    ticks = _ticks(max([*ends, *(row.p95 for row in rows)], default=0.0))
    end, columns = ticks[-1], 48
    bottom = (height + 10) * len(rows)
    scale = (right - left) / end
    parts = [_grid(left + tick * scale, bottom, f"{tick:g}{unit}") for tick in ticks]
    for number, row in enumerate(rows):
        base = (height + 10) * number + height
        parts.append(_label(row.label, base - height / 2))
        counts = [0] * columns
        for value in row.values:
            counts[min(int(value / end * columns), columns - 1)] += 1
        top = max(counts, default=0) or 1
        width = (right - left) / columns
        path = [f"M{left:.1f} {base:.1f}"]
        for column, count in enumerate(counts):
            y = base - count / top * (height - 8)
            path.append(f"V{y:.1f}H{left + (column + 1) * width:.1f}")
        parts += [
            h("path", class_="area", d="".join(path) + f"V{base:.1f}Z"),
            h("line", class_="axis", x1=left, x2=right, y1=base, y2=base),
        ]
        for name, value in (("p50", row.p50), ("p95", row.p95)):
            x = left + min(value, end) * scale
            parts.append(
                h("line", class_=f"mark {name}", x1=x, x2=x, y1=base - height + 4, y2=base)
            )
        note = f"p50 {row.p50:g}, p95 {row.p95:g}{unit}" if row.values else "no answers"
        parts.append(_note(note, right + 12, base - height / 2))
    return _figure(title, parts, bottom + 24)


def _figure(title: str, parts: Sequence[Node], height: float) -> Node:
    drawing = h(
        "svg",
        h("title", title),
        list(parts),
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_label=title,
    )
    return h("div", drawing, class_="drawing", tabindex=0, role="group", aria_label=title)


def _grid(x: float, bottom: float, text: str) -> Node:
    return h(
        "g",
        h("line", class_="grid", x1=x, x2=x, y1=0, y2=bottom),
        h("text", text, class_="tick", x=x, y=bottom + 16, text_anchor="middle"),
    )


def _label(text: str, y: float) -> Node:
    """The whole name is in the title when it does not fit."""
    short = text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"
    return h(
        "text", h("title", text), short, class_="label", x=LABEL - 10, y=y + 4, text_anchor="end"
    )


def _note(text: str, x: float, y: float) -> Node:
    return h("text", text, class_="note", x=x, y=y + 4)


def _ticks(largest: float) -> list[float]:
    """From 0 in at most six round steps to at least `largest`."""
    if largest <= 0:
        return [0, 1]
    size = 1.0
    while size * 10 <= largest / 5:
        size *= 10
    while size > largest / 5:
        size /= 10
    step = next(size * s for s in _STEPS if size * s * 5 >= largest)
    ticks = [round(step * number, 12) for number in range(7)]
    return [0, *(tick for before, tick in pairwise(ticks) if before < largest)]


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
