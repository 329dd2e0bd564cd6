"""The pictures of the docs, taken from the pages themselves: `make demo`, `make ui`, then this.

    pip install playwright        (Debian's chromium serves; nothing else is fetched)
    python docs/pictures.py [--chromium /usr/bin/chromium] [--out docs/images]

Goes through Dagster's and MLflow's pages as a person would: the asset graph with every group open,
the arena's leaderboard and the gaps' histogram in the assets' metadata, a scorecard's images, then
by the report's own link to MLflow's comparison of the scorecard runs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DAGSTER, MLFLOW = "http://127.0.0.1:3000", "http://127.0.0.1:5000"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def asset_graph(page: Page) -> None:
    """The whole chain, every group open."""
    page.set_viewport_size({"width": 3500, "height": 1600})  # zoomed out, nodes hide their checks
    page.goto(f"{DAGSTER}/asset-groups")
    page.wait_for_timeout(6000)
    page.mouse.click(1600, 1300)
    page.keyboard.press("Alt+E")
    page.wait_for_timeout(5000)


def metadata(asset: str, entry: str, partition: str | None = None) -> Callable[[Page], None]:
    """One entry of an asset's metadata, opened."""

    def show(page: Page) -> None:
        chosen = f"?view=partitions&partition={partition}" if partition else ""
        page.goto(f"{DAGSTER}/assets/{asset}{chosen}")
        page.wait_for_timeout(5000)
        row = page.locator("tr", has_text=entry).first
        row.get_by_text("Show Markdown").click()
        page.wait_for_timeout(3000)

    return show


def comparison(page: Page) -> None:
    """MLflow's comparison of the scorecard runs, by the link in the report's metadata."""
    page.goto(f"{DAGSTER}/assets/report")
    page.wait_for_timeout(5000)
    link = page.locator(f'a[href^="{MLFLOW}/#/compare-runs"]').first.get_attribute("href")
    assert link, "the report's metadata has no link to MLflow's comparison"
    page.set_viewport_size({"width": 1600, "height": 1000})
    page.goto(link)
    page.wait_for_timeout(8000)
    page.get_by_role("button", name="Close").last.click()  # the assistant beside the page
    page.get_by_role("button", name="Clear All").click()
    boxes = page.get_by_role("combobox")
    for box, names in (
        (0, ["objective", "gap_estimator"]),
        (1, ["miniature.win_rate", "miniature.mean"]),
    ):
        for name in names:
            boxes.nth(box).click()
            page.keyboard.type(name)
            page.wait_for_timeout(500)
            page.keyboard.press("Enter")
            page.keyboard.press("Escape")
    page.wait_for_timeout(3000)


PICTURES: dict[str, Callable[[Page], None]] = {
    "assets": asset_graph,
    "leaderboard": metadata("ratings", "leaderboard"),
    "gaps": metadata("gaps", "histogram"),
    "scorecard": metadata("scorecard", "images", "arenapo_joint"),
    "comparison": comparison,
}


def main() -> None:
    """Take every picture, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pictures", nargs="*", help=f"of {list(PICTURES)}; all by default")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        for name in options.pictures or PICTURES:
            page = browser.new_page(viewport={"width": 1600, "height": 900})
            PICTURES[name](page)
            path = options.out / f"{name}.png"
            page.screenshot(path=path)
            page.close()
            print(path)
        browser.close()


if __name__ == "__main__":
    main()
