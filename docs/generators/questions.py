"""The pages of open questions, from the records that come with the package, and the list of them."""

from __future__ import annotations

from pathlib import Path

from bayesprune.reports.questions.catalogue import QUESTIONS
from bayesprune.reports.questions.page import write as write_page
from bayesprune.reports.questions.records import evidence
from bayesprune.reports.reference.results import shipped
from bayesprune.reports.writing.render import md

from .markdown import pipes

WORDS = """# Open questions

Questions that the literature has not settled. The matrix, the analysis and the rule of each were written before its
run; what comes out is said by the rule, whatever it is. `bayesprune question` lists them, `bayesprune question NAME`
makes the page, and computes what the package does not hold.
"""


def write(out: Path) -> None:
    """Write a page for each question into the folder `out`, and the list of all."""
    rows = []
    for question in QUESTIONS.values():
        found, page = write_page(question, evidence(question, shipped()), out)
        rows.append((f"[{md(question.asks)}]({page.name})", found.answer, " ".join(map(md, found.says))))
    table = pipes(("question", "answer", "what was found"), rows)
    tree = "```{toctree}\n:hidden:\n\n" + "\n".join(QUESTIONS) + "\n```"
    (out / "index.md").write_text(f"{WORDS}\n{table}\n\n{tree}\n")
