"""Screenshots of a report's main views: python -m tests.benchmarks.report_screenshots REPORT OUT [--width PX …]."""

from __future__ import annotations

import argparse
import shutil
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = "chromium"  # Debian's
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
]


@contextmanager
def browser():
    """Headless Chromium; RuntimeError where there is none."""
    executable = shutil.which(CHROMIUM)
    if executable is None:
        raise RuntimeError("no chromium on PATH: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            yield opened
        finally:
            opened.close()


def main() -> None:
    """Write <page>-<scheme>-<width>.png of every page."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("report", type=Path, help="the folder that ./run.sh report wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, nargs="+", default=[1280, 390])
    parser.add_argument("--height", type=int, default=860)
    parser.add_argument("--pages", nargs="+", metavar="NAME", help="of these pages (all)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with browser() as opened:
        for path in sorted(options.report.glob("*.html")):
            if options.pages and path.stem not in options.pages:
                continue
            for width in options.width:
                for scheme in ("light", "dark"):
                    page = opened.new_page(
                        viewport={"width": width, "height": options.height}, color_scheme=scheme
                    )
                    page.goto(path.resolve().as_uri())
                    if path.stem in ("validation", "test") and page.locator("#second option").count() > 2:
                        page.select_option("#second", "1")
                    page.wait_for_timeout(1500 if page.locator("[data-chart]").count() else 600)
                    page.screenshot(path=options.out / f"{path.stem}-{scheme}-{width}.png")
                    page.close()


if __name__ == "__main__":
    main()
