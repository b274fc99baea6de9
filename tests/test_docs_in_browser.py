"""Pages of the documentation in a real browser, where they have been built: for keyboard, reader, dark and small."""

from pathlib import Path

import pytest
from browsers import browser, complaints, lacking, shown, violations

BUILT = Path(__file__).parents[1] / "docs" / "_build" / "html"
PAGES = ("index.html", "report.html", "generated/methods/opd.html")

pytestmark = [
    pytest.mark.skipif(bool(lacking()), reason=lacking() or "a browser is there"),
    pytest.mark.skipif(not (BUILT / "index.html").is_file(), reason="the documentation is not built: make docs"),
]


@pytest.fixture(scope="module")
def driver():
    with browser() as found:
        yield found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_nothing_serious(driver, page, dark):
    shown(driver, BUILT / page, dark=dark)
    assert violations(driver) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_small_screen_scrolls_down_alone_and_nothing_complains(driver, page):
    complaints(driver)
    shown(driver, BUILT / page, width=400, height=800)
    assert driver.execute_script("return document.documentElement.scrollWidth") == 400
    assert [text for text in complaints(driver) if "net::ERR_INTERNET_DISCONNECTED" not in text] == []
