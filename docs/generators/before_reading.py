"""What is written before Sphinx reads: pages, tables and pictures that are made of code and results."""

from __future__ import annotations

from pathlib import Path

from . import api, commands, ledger, pages, pictures, questions, reference


def write(out: Path) -> None:
    """Write everything below `out`, which is no part of the repository."""
    pages.write(out)
    (out / "standings.md").write_text(pages.standings())
    (out / "coverage.md").write_text(reference.held())
    (out / "ledger.md").write_text(ledger.page())
    questions.write(out / "questions")
    (out / "mission.md").write_text(pictures.snippet(out))
    (out / "budgets.md").write_text(pictures.budget_snippet(out))
    (out / "commands.md").write_text(commands.page())
    (out / "api.rst").write_text(api.page())
