"""Sphinx: pages that are made from the registries and the reference results, tutorials that are run, and the rest."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
os.environ.setdefault("MPLBACKEND", "Agg")

import bayesprune  # noqa: E402
from generators import before_reading, docstrings, links  # noqa: E402

project, author, version = "bayesprune", "The bayesprune developers", bayesprune.__version__
copyright = author
release = version

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "templates", "tutorials", "**/sg_execution_times.rst", "sg_execution_times.rst"]
suppress_warnings = ["config.cache"]
default_role = "code"
nitpicky = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autosummary_generate = ["generated/api.rst"]  # which is written before Sphinx reads
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_ivar = True

bibtex_bibfiles = ["../methods/references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "generated/gallery",
    "filename_pattern": r"/\d_",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 0,
    "within_subsection_order": "FileNameSortKey",
    "reset_modules": ("matplotlib",),
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "bayesprune"
html_static_path = ["_static"]
html_css_files = ["bayesprune.css"]
html_show_sourcelink = False
html_sidebars = {
    page: [] for page in ("*", "extending/*", "generated/ledger", "generated/standings", "generated/commands")
}
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "navbar_align": "left",
    "header_links_before_dropdown": 5,
}
html_context = {"default_mode": "auto"}


def setup(app):
    """Write the generated pages, make docstrings safe, and check the links inside of the site."""
    app.connect("builder-inited", lambda app: before_reading.write(DOCS / "generated"), priority=1)
    app.connect("autodoc-process-docstring", docstrings.escape)
    app.connect("build-finished", links.check)
