"""Line plots as SVG, with axes that may be logarithmic: all that the bench draws, so that no library is needed for it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 34, 46
STYLE = (
    "text{font:12px sans-serif;fill:#333}.title{font-weight:bold}.grid{stroke:#ddd}.axis{stroke:#333}"
    ".line{fill:none;stroke:#0a6ebd;stroke-width:2}.dot{fill:#0a6ebd}"
)
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One plot: a title, what x and y are, the points, and whether y is logarithmic too. x always is."""

    title: str
    x: str
    y: str
    points: Points
    log_y: bool = False


def drawn(panels: Sequence[Panel], columns: int = 2) -> str:
    """Return an SVG of all the panels, beside and below one another."""
    rows = math.ceil(len(panels) / columns)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * columns} {HEIGHT * rows}">',
        f"<style>{STYLE}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        parts.append(f'<g transform="translate({column * WIDTH},{row * HEIGHT})">{_panel(panel)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel) -> str:
    xs, ys = [x for x, _ in panel.points], [y for _, y in panel.points]
    x_ticks = decades(min(xs), max(xs))
    y_ticks = decades(min(ys), max(ys)) if panel.log_y else steps(max(ys))
    place_x = _scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT, log=True)
    place_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP, log=panel.log_y)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [f'<text class="title" x="{middle}" y="20" text-anchor="middle">{escape(panel.title)}</text>']
    for tick in x_ticks:
        x = place_x(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(tick)}</text>')
    for tick in y_ticks:
        y = place_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(panel.x)}</text>')
    parts.append(
        f'<text transform="translate(14,{HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(panel.y)}</text>'
    )
    parts.append(f'<path class="axis" fill="none" d="M{LEFT},{TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    places = [(place_x(x), place_y(y)) for x, y in panel.points]
    parts.append(f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
    parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
    return "".join(parts)


def _scale(low: float, high: float, begin: float, end: float, *, log: bool) -> Callable[[float], float]:
    """Return what places a value between `begin` (of `low`) and `end` (of `high`)."""
    of: Callable[[float], float] = math.log10 if log else float
    return lambda value: begin + (of(value) - of(low)) / (of(high) - of(low)) * (end - begin)


def decades(low: float, high: float) -> list[float]:
    """Return the powers of ten around `low` and `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def steps(high: float) -> list[float]:
    """Return round numbers from 0 to `high` or a little more, four to ten of them."""
    size = 10.0 ** math.floor(math.log10(high))
    step = next(size * part for part in (0.2, 0.5, 1.0, 2.0) if high / (size * part) <= 8)
    return [step * number for number in range(math.ceil(high / step) + 1)]


def short(value: float) -> str:
    """Return a number in few characters: 1000 is 1k."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
