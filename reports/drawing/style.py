"""One fixed colour, marker and line per method: the same in every figure of every report.

Names in the table keep their look for ever; append, never reorder. A variant (`grasp(absolute=True)`) has the
colour of its base, dashed, with another marker; `random(like=opd)` has the marker of `opd`. Names that are
not in the table take what is left, in alphabetical order.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..records.undertrained import MARK

SHEET = Path(__file__).with_name("bayesprune.mplstyle")


@dataclass(frozen=True)
class Style:
    """How a method is drawn; markers are filled ones, since an open marker means a collapsed layer."""

    color: str
    marker: str
    line: tuple[float, Sequence[float]] | Literal["-"] = "-"


# Okabe and Ito (2008), then Tol's muted set: all pairs of colour and marker differ.
_BLUE, _RED, _GREEN, _ORANGE, _PINK, _SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
_INDIGO, _WINE, _OLIVE, _TEAL, _BROWN, _GREY, _BLACK = (
    "#332288",
    "#882255",
    "#808000",
    "#44AA99",
    "#8C510A",
    "#7A7A7A",
    "#000000",
)
_COLORS = (_BLUE, _RED, _GREEN, _ORANGE, _PINK, _SKY, _INDIGO, _WINE, _OLIVE, _TEAL, _BROWN)
_MARKERS = ("o", "s", "^", "D", "v", "P", "<", ">", "p", "h", "d", "8", "H")
_DASHES = ((0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)), (0, (7, 2)))

BUILT_IN: dict[str, Style] = {
    "dense": Style(_BLACK, "o", (0, (5, 2))),
    "magnitude": Style(_BLUE, "o"),
    "random": Style(_GREY, "p"),
    "opd": Style(_RED, "s"),
    "grasp": Style(_GREEN, "^"),
    "snip": Style(_ORANGE, "v"),
    "synflow": Style(_PINK, "D"),
    "lamp": Style(_SKY, "P"),
    "obd": Style(_INDIGO, "<"),
    "bmr": Style(_WINE, ">"),
    "bmrs-n": Style(_TEAL, "H"),
    "bmrs-u": Style(_BROWN, "h"),
    "snr": Style(_OLIVE, "d"),
    "pip": Style(_INDIGO, "D"),
    "horseshoe": Style(_OLIVE, "P"),
    "variational-dropout": Style(_TEAL, "v"),
    "group-variational-dropout": Style(_TEAL, "D"),
    "lstm-w": Style(_ORANGE, "o"),
    "lstm-wn": Style(_ORANGE, "s"),
    "lstm-wgn": Style(_ORANGE, "D"),
    "l2-group": Style(_BLUE, "h"),
    "mean-field": Style(_BROWN, "o"),
    "bmr-laplace": Style(_BROWN, "X"),
    "bmr-spam": Style(_BROWN, "v"),
    "bmrs-n-exact": Style(_TEAL, "o"),
    "bmrs-n-mid": Style(_TEAL, "^"),
    "noise-mean": Style(_OLIVE, "o"),
    "local-horseshoe": Style(_OLIVE, "p"),
    "opd-kfac": Style(_RED, "H"),
    "precision-only": Style(_RED, "d"),
    "pip-gates": Style(_INDIGO, "o"),
    "pip-laplace": Style(_INDIGO, "8"),
    "obs": Style(_RED, "*"),
    "wanda": Style(_SKY, "$W$"),
    "obc": Style(_RED, "$C$"),
    "set": Style(_GREEN, "$S$"),
    "rigl": Style(_GREEN, "$R$"),
    "ivon-opd": Style(_PINK, "o"),
    "ivon-bmr": Style(_PINK, "s"),
    "sparsegpt": Style(_RED, "$G$"),
    "l0": Style(_OLIVE, "$0$"),
    "vib": Style(_OLIVE, "$V$"),
    "compression-gnj": Style(_TEAL, "$J$"),
    "compression-ghs": Style(_TEAL, "$N$"),
    "cbs": Style(_RED, "$B$"),
    "chita": Style(_RED, "$I$"),
    "ssvi": Style(_GREEN, "$U$"),
    "sosp": Style(_INDIGO, "$H$"),
    "swag-obs": Style(_PINK, "$A$"),
    "sghmc-obs": Style(_PINK, "$Y$"),
    "ss-gl": Style(_INDIGO, "$L$"),
    "ss-ghs": Style(_INDIGO, "$T$"),
}
SPAM = "spam-"


def fixed(name: str) -> Style | None:
    """The look of a method for ever; a criterion after SpaM training has SpaM's colour and its own marker."""
    if name.startswith(SPAM):
        criterion = BUILT_IN.get(name.removeprefix(SPAM))
        return criterion and Style(_WINE, criterion.marker)
    return BUILT_IN.get(name)


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A style for each label, all different but for the mark behind it; depends on the set of labels only."""
    marked = sorted(set(labels))
    table = _styles(label.removesuffix(MARK) for label in marked)
    return {label: style for name, style in table.items() for label in marked if label.removesuffix(MARK) == name}


def _styles(labels: Iterable[str]) -> dict[str, Style]:
    table: dict[str, Style] = {}
    looks = filter(None, map(fixed, [*BUILT_IN, *(f"{SPAM}{name}" for name in BUILT_IN)]))
    taken = {(style.color, style.marker) for style in looks}
    for label in sorted(set(labels), key=lambda name: (not _known(name), name)):
        table[label] = fixed(label) or next(s for s in _candidates(label) if (s.color, s.marker) not in taken)
        taken.add((table[label].color, table[label].marker))
    return table


def _known(label: str) -> bool:
    return fixed(_base(label)) is not None


def _base(label: str) -> str:
    return re.split(r"[(\[ ]", label, maxsplit=1)[0]


def _candidates(label: str) -> Iterator[Style]:
    """Styles in the order of preference; endless."""
    base, like = fixed(_base(label)), fixed(_like(label))
    dashes = itertools.cycle(_DASHES)
    if base and like:
        yield Style(base.color, like.marker, _DASHES[0])
    if base:
        yield from (Style(base.color, marker, next(dashes)) for marker in _MARKERS)
    yield from _mixed()
    yield from (Style(_GREY, f"${number}$", _DASHES[1]) for number in itertools.count(1))


def _mixed() -> Iterator[Style]:
    """All pairs of colour and marker, with both changing from one to the next."""
    for shift, (index, color) in itertools.product(range(len(_MARKERS)), enumerate(_COLORS)):
        yield Style(color, _MARKERS[(index + shift + 4) % len(_MARKERS)], _DASHES[2])


def _like(label: str) -> str:
    found = re.search(r"like=['\"]?([\w.+-]+)", label)
    return found.group(1) if found else ""


@contextmanager
def sheet() -> Iterator[None]:
    """Draw and save under this report's own style, whatever the user's settings are."""
    import matplotlib.style

    with matplotlib.style.context(SHEET, after_reset=True):
        yield


def shortened(text: str, length: int) -> str:
    """At most `length` characters, the middle replaced by an ellipsis."""
    if len(text) <= length:
        return text
    head = length // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
