"""The scripts and what they read, as they stand in the page, and the policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from markupsafe import Markup

SCRIPTS = (
    "numbers", "statistics", "letters", "generator", "common", "paired", "leaderboard", "ranking", "elements", "words",
    "records", "choice", "table", "figures", "details", "shown", "page", "main",
)  # fmt: skip
"""Files without their suffix, in the order in which they follow one another; they share one scope."""


@dataclass(frozen=True)
class Embedded:
    """What the template writes into the head of a page; `data` is empty where there is nothing to choose from."""

    script: Markup
    policy: str
    data: Markup


def embedded(data: str) -> Embedded:
    """The scripts with `data`, JSON text as `payload.payload` made it safe."""
    script = _script()
    return Embedded(Markup(script), _policy(script), Markup(data))  # noqa: S704


@lru_cache(maxsize=1)
def _script() -> str:
    """All scripts; raises ValueError if one of them could end the element that it stands in."""
    folder = Path(__file__).parent
    text = "\n".join((folder / f"{name}.js").read_text(encoding="utf-8").strip() for name in SCRIPTS)
    if "</" in text or "<!--" in text:
        raise ValueError("a script that holds </ or <!-- cannot stand in a page")
    return f"\n{text}\n"


def _policy(script: str) -> str:
    """No request leaves the file, and no script runs but this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
