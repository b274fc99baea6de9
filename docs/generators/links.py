"""Every link inside the site leads somewhere: to a file that is there, and to an anchor in it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

LINK = re.compile(r'(?:href|src)="([^"]+)"')
OUTSIDE = ("http:", "https:", "mailto:", "data:", "javascript:")


def check(app: Any, exception: Exception | None) -> None:
    """Raises SphinxError that names the links that lead nowhere."""
    from sphinx.errors import SphinxError  # here, so that the rest can be tested without it

    if exception is None and app.builder.name == "html":
        wrong = broken(Path(app.outdir))
        if wrong:
            raise SphinxError("links that lead nowhere:\n  " + "\n  ".join(wrong))


def broken(site: Path) -> list[str]:
    """`page: link` of each."""
    found = []
    for page in sorted(site.rglob("*.html")):
        if "_static" in page.parts:
            continue
        for link in sorted(set(LINK.findall(page.read_text(encoding="utf-8")))):
            if not link.startswith(OUTSIDE) and not _leads(site, page, link):
                found.append(f"{page.relative_to(site)}: {link}")
    return found


def _leads(site: Path, page: Path, link: str) -> bool:
    path, _, anchor = unquote(link).partition("#")
    target = page if not path else (site / path.lstrip("/") if path.startswith("/") else page.parent / path).resolve()
    target = target if not target.is_dir() else target / "index.html"
    target = target.with_name(target.name.partition("?")[0])
    if not target.is_file():
        return False
    return not anchor or target.suffix != ".html" or anchor in _anchors(target)


@cache
def _anchors(page: Path) -> frozenset[str]:
    return frozenset(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8"))) | {"", "top"}
