"""The page of a question: Markdown and one picture; every number of it comes from records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from ...datasets.atomic import write_atomically
from ..drawing.panels import save_svg
from ..records.frame import done, percent, span
from ..writing.render import markdown, md
from .question import Evidence, Finding, Question


def write(question: Question, evidence: Evidence, folder: Path) -> tuple[Finding, Path]:
    """Write NAME.md and NAME.svg, the same bytes for the same records; returns the finding and the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    finding = question.judged(evidence)
    picture = folder / f"{question.name}.svg"
    if finding.figure is not None:
        save_svg(finding.figure, picture)
    path = folder / f"{question.name}.md"
    write_atomically(path, page(question, finding, evidence).encode())
    return finding, path


def page(question: Question, finding: Finding, evidence: Evidence) -> str:
    """The page, beside whose file the picture lies."""
    parts = [f"# {md(question.asks)}", f"**{finding.answer[0].upper()}{finding.answer[1:]}.** {_prose(finding.says)}"]
    if finding.figure is not None:
        parts += [f"![{md(question.asks)}]({question.name}.svg)", md(finding.caption)]
    parts += ["## Who disagrees", md(question.disagree), "## What was run", md(question.design)]
    parts += _list(_facts(question, evidence))
    parts += [f"## The rule, written on {question.written}, before the run", *_list(question.rule)]
    parts += [markdown(table).strip() for table in finding.tables]
    parts += ["## What is uncertain", *_list(finding.doubts)] if finding.doubts else []
    parts += ["## Noticed afterwards", *_list(question.remarks)] if question.remarks else []
    command = f"bayesprune question {question.name}"
    parts += ["## Again", f"```\n{command}            # cells that the package does not hold, then this page\n"
              f"{command} --anew     # every cell computed again\n```"]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _prose(sentences: Iterable[str]) -> str:
    return " ".join(map(md, sentences))


def _list(sentences: Iterable[str]) -> list[str]:
    return ["\n".join(f"- {md(sentence)}" for sentence in sentences)]


def _facts(question: Question, evidence: Evidence) -> Iterator[str]:
    """What the records say of the run, a sentence for each matrix."""
    for name in question.read:
        frame = evidence.frames[name]
        rows = done(frame) if len(frame) else frame
        if not len(rows):
            yield f"{name}: not run yet."
            continue
        blocks = [f"{d} × {a}" for d, a in dict.fromkeys(zip(rows["dataset"], rows["architecture"], strict=True))]
        seeds = rows.groupby(["dataset", "architecture"])["seed"].nunique()
        rest = "; ".join(f"{n} {status}" for status, n in frame["status"].value_counts().items() if status != "done")
        yield (
            f"{name}: {len(rows)} cells ({rest or 'all done'}), {len(blocks)} block{'s' * (len(blocks) != 1)} "
            f"({'; '.join(blocks)}), {span(list(seeds))} seeds in each, {_epochs(rows)} epochs, sparsities "
            f"{_levels(rows)}, computed until {max(rows['started'])[:10]}."
        )


def _epochs(rows: pd.DataFrame) -> str:
    pairs = dict.fromkeys(zip(rows["epochs_train"], rows["epochs_finetune"], strict=True))
    return ", ".join(f"{train:g} + {more:g}" for train, more in pairs)


def _levels(rows: pd.DataFrame) -> str:
    given = [percent(float(level)) for level in sorted(set(rows["sparsity_target"].dropna()))]
    return ", ".join([*given, *(["their own"] if rows["sparsity_auto"].any() else [])])
