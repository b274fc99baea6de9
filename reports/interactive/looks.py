"""The fixed look of each method as a browser draws it: colour, dashes, and the outline of the marker."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as Outline

from ..drawing.style import Style, styles

_COMMANDS = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C"}


def looks(labels: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour, dash pattern in line widths, and marker as the `d` of an SVG path of about unit size, by label."""
    return {label: _look(style) for label, style in styles(labels).items()}


def _look(style: Style) -> dict[str, str]:
    dashes = "" if style.line == "-" else " ".join(f"{length:g}" for length in style.line[1])
    return {"color": style.color, "dash": dashes, "marker": outline(style.marker)}


def outline(marker: str) -> str:
    """A marker's path with y downwards."""
    found = MarkerStyle(marker)
    path = found.get_path().transformed(found.get_transform())
    parts = []
    for points, code in path.iter_segments(simplify=False, curves=True):
        if code == Outline.CLOSEPOLY:
            parts.append("Z")
        else:
            pairs = points.reshape(-1, 2) * (1, -1)
            parts.append(_COMMANDS[code] + " ".join(f"{x + 0:.3f},{y + 0:.3f}" for x, y in pairs))
    return "".join(parts)
