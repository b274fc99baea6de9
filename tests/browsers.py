"""A headless browser for tests of pages; they are skipped, with the reason, where there is none."""

import importlib.util
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-gpu")
SERIOUS = {"serious", "critical"}


def lacking():
    """Why no page can be opened here; empty if one can."""
    programs = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    packages = [name for name in ("selenium", "axe_core_python") if not importlib.util.find_spec(name)]
    return f"{', '.join([*programs, *packages])} not installed" if programs or packages else ""


@contextmanager
def browser(downloads=None):
    """A browser that records its console and its requests, and saves files into the folder `downloads`."""
    if reason := lacking():
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        if downloads:
            driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        yield driver
    finally:
        driver.quit()


def shown(driver, path, fragment="", width=1300, height=1000, dark=False, media="screen"):
    """Open a file of this machine, in a window of this width, in light or dark, as fresh as the first time."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": scheme})
    driver.get("about:blank")
    driver.get(Path(path).as_uri() + fragment)
    return driver


def complaints(driver):
    """What the console holds since it was last asked."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver):
    """Addresses that were asked for since this was last asked, those of data in the page left out."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith(("data:", "blob:", "about:"))]


def violations(driver, within="document"):
    """What axe finds that is serious or critical, as (rule, where)."""
    import axe_core_python

    folder = Path(next(iter(axe_core_python.__path__)))
    driver.execute_script("document.getAnimations().forEach((one) => one.finish())")  # colours on their way to others
    driver.execute_script((folder / "axe.min.js").read_text(encoding="utf-8"))
    driver.set_script_timeout(120)
    found = driver.execute_async_script(
        f"const done = arguments[0]; axe.run({within}, {{resultTypes: ['violations']}}).then((r) => done(r.violations))"
    )
    return [
        (one["id"], node["target"], node.get("failureSummary", "")[:200])
        for one in found if one["impact"] in SERIOUS for node in one["nodes"]
    ]  # fmt: skip
