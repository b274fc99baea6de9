"""What docstrings say of a registered name beyond its summary: sections that documentation and citations read.

A section is a paragraph that begins with its name, in the docstring of the builder or, for all builders of a file that
have none of their own, of the module:

    Formula: s_k = ½ Λ_kk θ_k²
    Paper: dhahri2024shaving, lecun1989optimal        (keys of references.bib)
    Deviations: what differs from the published code, and why
    Oracle: test_spam.py::test_opd_is_the_exact_rise  (the tests that compare it with something surer)
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from .registry import Entry

SECTIONS = ("Formula", "Paper", "Deviations", "Oracle")
_HEAD = re.compile(rf"^({'|'.join(SECTIONS)}): ", re.MULTILINE)


@dataclass(frozen=True)
class Described:
    """The prose and the sections of a registered name; empty where nothing is said.

    Attributes:
        prose: paragraphs, those of the builder first, without the two summaries.
    """

    prose: tuple[str, ...]
    formula: str
    papers: tuple[str, ...]
    deviations: str
    oracles: tuple[str, ...]


def described(entry: Entry) -> Described:
    """What the docstrings of an entry say."""
    own, shared = _parts(entry.text), _parts(entry.module_text)
    sections = shared[1] | own[1]
    return Described(
        (*own[0], *shared[0]),
        sections.get("Formula", ""),
        _listed(sections.get("Paper", "")),
        sections.get("Deviations", ""),
        _listed(sections.get("Oracle", "")),
    )


def _parts(text: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Paragraphs behind the first, and sections by name."""
    prose, sections = list[str](), dict[str, str]()
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        before, *found = _HEAD.split(paragraph)
        if number and before.strip():
            prose.append(textwrap.dedent(before).strip("\n"))
        sections |= {name: " ".join(content.split()) for name, content in zip(found[::2], found[1::2], strict=True)}
    return tuple(prose), sections


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
