"""Draw small plots as SVG on a white background, without a library."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import msgspec

WIDTH, MARGIN = 720, 48
COLOURS = ("#1f6feb", "#d1531f", "#2d8a4e", "#8250a8")
GOOD, POOR, GREY = "#2d8a4e", "#c8372d", "#8a8f98"
FONT = "font-family='system-ui, sans-serif' font-size='12'"

Points = Sequence[tuple[float, float]]


class Bar(msgspec.Struct, frozen=True):
    """A figure relative to its limit: from 1 on, the limit holds."""

    name: str
    share: float
    aim: float
    label: str


def bars(title: str, drawn: Sequence[Bar]) -> str:
    """Return bars on a logarithmic axis, with a line at the limits and a tick at the goal of each figure."""
    left, step, top = 240, 24, 56
    unit = (WIDTH - left - 130) / 4  # from an eighth of the limit to twice the limit

    def across(share: float) -> float:
        return left + unit * (3 + math.log2(min(max(share, 1 / 8), 2)))

    parts = []
    for number, bar in enumerate(drawn):
        y = top + number * step
        colour, length = GOOD if bar.share >= 1 else POOR, max(3, across(bar.share) - left)
        parts += [
            _text(left - 8, y + 12, bar.name, "end"),
            f"<rect x='{left}' y='{y}' width='{length:.1f}' height='16' rx='2' fill='{colour}'/>",
            f"<path d='M{across(bar.aim):.1f} {y - 2}v20' stroke='#333' stroke-width='2'/>",
            _text(WIDTH - 120, y + 12, bar.label),
        ]
    height = top + len(drawn) * step + 12
    line = f"<path d='M{across(1):.1f} {top - 8}V{height - 8}' stroke='{GREY}' stroke-dasharray='4 3'/>"
    key = _text(across(1), top - 14, "must", "middle")
    return _picture(title, height, [line, key, *parts])


def curves(title: str, lines: Mapping[str, Points], top_value: float, limit: float) -> str:
    """Return a curve for each name on a logarithmic axis of sizes, with a line at the limit."""
    height, bottom, right = 300, 252, WIDTH - 170
    sizes = sorted({size for points in lines.values() for size, _ in points})
    low, high = math.log10(sizes[0]), math.log10(sizes[-1])

    def place(size: float, value: float) -> tuple[float, float]:
        x = MARGIN + (math.log10(size) - low) / (high - low) * (right - MARGIN)
        return x, bottom - value / top_value * (bottom - 48)

    parts = [
        f"<path d='M{MARGIN} {place(sizes[0], value)[1]:.1f}H{right}' stroke='{colour}' stroke-dasharray='4 3'/>"
        for value, colour in ((limit, POOR), (1, GREY))
    ]
    parts += [_text(MARGIN - 8, place(sizes[0], value)[1] + 4, f"{value:g}", "end") for value in (0, 1, limit)]
    parts += [_text(place(size, 0)[0], bottom + 20, _short(size), "middle") for size in sizes]
    parts.append(f"<path d='M{MARGIN} {bottom}H{right}' stroke='#333'/>")
    for number, (name, points) in enumerate(lines.items()):
        colour, placed = COLOURS[number], [place(*point) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>" for x, y in placed]
        y = 64 + number * 20
        parts.append(f"<rect x='{right + 22}' y='{y - 9}' width='10' height='10' fill='{colour}'/>")
        parts.append(_text(right + 38, y, name))
    return _picture(title, height, parts)


def _short(size: float) -> str:
    return f"{size / 1e6:g} M" if size >= 1e6 else f"{size / 1e3:g} k"  # noqa: PLR2004 - a million


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='#24292f'>{escape(words)}</text>"


def _picture(title: str, height: float, parts: Sequence[str]) -> str:
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' {FONT}>"
    background = "<rect width='100%' height='100%' fill='white'/>"
    heading = f"<text x='16' y='24' font-size='14' font-weight='600' fill='#24292f'>{escape(title)}</text>"
    return "\n".join([head, background, heading, *parts, "</svg>", ""])
