"""The documentation's pictures: the explorer with the bundled run, as a headless Chromium shows it.

python tools/pictures.py [--folder docs/images]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.browser.driving import SLOW_MS, Driver  # noqa: E402
from tools.browser import ensure_chromium  # noqa: E402
from tools.serving import browser, voila, write_notebook  # noqa: E402

SIZE = {"width": 1280, "height": 800}
TOKEN = 33


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "images")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with (
        browser(ensure_chromium()) as opened,
        tempfile.TemporaryDirectory() as name,
        voila(Path(name), Path(name)) as served,
    ):
        page = opened.new_page(viewport=SIZE)
        for theme in ("light", "dark"):
            code = f"from fiddler_viz.explorer import Explorer\nExplorer(theme={theme!r})"
            notebook = write_notebook(Path(name) / f"{theme}.ipynb", code)
            page.goto(f"{served.url}{notebook.name}", timeout=SLOW_MS)
            driver = Driver(page)
            driver.opened()
            driver.root.locator(".fv-text i[data-t]").nth(TOKEN).click()
            driver.until(f"s.title.includes('token {TOKEN}')")
            driver.root.get_by_label("layer", exact=True).select_option("10")
            driver.root.get_by_label("expert", exact=True).select_option("2")
            page.mouse.move(0, 0)
            page.wait_for_timeout(1500)
            driver.shoot(folder / f"explorer-{theme}.png")
            page.goto("about:blank")
            print(folder / f"explorer-{theme}.png")


if __name__ == "__main__":
    main()
