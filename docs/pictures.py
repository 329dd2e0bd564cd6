"""A walk through Dagster's and MLflow's pages as a person goes; the docs' pictures come from it.

    make demo && make ui            (in another terminal; Debian's chromium serves)
    .venv/bin/python docs/pictures.py [--chromium /usr/bin/chromium] [--out docs/images]

`tests/pipelines/test_browser.py` goes the same walk over a small study and presses the buttons too.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
WIDE, TALL = {"width": 1600, "height": 900}, {"width": 1600, "height": 1000}
CHAIN = {"width": 3500, "height": 2200}  # zoomed out, nodes hide their checks
PATIENCE = 180_000  # ms
SETTLED = 1500  # ms: what moves on the page has arrived
COMPARED = (("objective", "gap_estimator"), ("miniature.win_rate", "miniature.mean"))


class Walk:
    """One tab, and where the two pages are."""

    def __init__(self, page: Page, dagster: str, mlflow: str) -> None:
        self.page, self.dagster, self.mlflow = page, dagster, mlflow
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)

    def button(self, name: str) -> Locator:
        """Return the first button that says this."""
        return self.page.get_by_role("button", name=name).first

    def asset(self, name: str, partition: str | None = None) -> None:
        """Open an asset's page, or one of its partitions'."""
        chosen = f"?view=partitions&partition={partition}" if partition else ""
        self.page.goto(f"{self.dagster}/assets/{name}{chosen}")
        expect(self.button("Materialize")).to_be_visible()

    def materialise(self, name: str) -> str:
        """Press an unpartitioned asset's button and go to its run; return the run's id."""
        self.asset(name)
        self.button("Materialize").click()
        self.page.get_by_text("View", exact=True).first.click()
        self.page.wait_for_url("**/runs/*")
        return self.page.url.rpartition("/runs/")[2].partition("?")[0]

    def watch(self, run: str, status: str) -> None:
        """Stay on a run's page until it says this."""
        self.page.goto(f"{self.dagster}/runs/{run}")
        expect(self.page.get_by_text(status, exact=True).first).to_be_visible()

    def backfill(self, name: str) -> None:
        """Materialise every partition of an asset."""
        self.asset(name)
        self.button("Materialize").click()
        self.button("All").click()
        self.button("Launch backfill").click()
        expect(self.button("Launch backfill")).to_be_hidden()

    def cancel(self, run: str) -> None:
        """Terminate a run from its page."""
        self.page.goto(f"{self.dagster}/runs/{run}")
        self.button("Terminate").click()
        self.page.get_by_role("dialog").get_by_role("button", name="Terminate").last.click()

    def tracked(self, name: str) -> str:
        """Follow the link from an asset's metadata to MLflow; return the run's name there."""
        self.asset(name)
        link = self.page.locator(f'a[href*="{self.mlflow}/#/experiments/"]').first
        with self.page.context.expect_page() as opened:
            link.click()
        there = opened.value
        called = name.rpartition("/")[2]
        heading = there.get_by_role("heading", name=re.compile(f"^{called}")).first
        heading.wait_for(timeout=PATIENCE)
        called = heading.inner_text().strip()
        there.close()
        return called

    def select_scorecards(self, experiment: str) -> None:
        """Search MLflow for the runs of scorecards, select them all and press Compare.

        A scorecard is nested below its policy's training: MLflow shows that run, folded.
        """
        wanted = quote("tags.`dagster.asset` = 'scorecard'")
        self.page.goto(f"{self.mlflow}/#/experiments/{experiment}/runs?searchFilter={wanted}")
        trainings = self.page.get_by_role("gridcell").filter(has_text=re.compile(r"policy\["))
        trainings.first.wait_for()
        for number in range(trainings.count()):
            trainings.nth(number).get_by_role("button").first.click()
        rows = self.page.get_by_role("row").filter(has_text=re.compile(r"scorecard\["))
        rows.first.wait_for()
        for number in range(rows.count()):
            rows.nth(number).get_by_role("checkbox").check()
        self.button("Compare").click()
        self.page.wait_for_url("**/compare-runs*")
        expect(self.page.get_by_text("Parallel Coordinates").first).to_be_visible()

    # What is pictured.

    def chain(self) -> None:
        """The asset graph, every group open."""
        self.page.set_viewport_size(CHAIN)
        self.page.goto(f"{self.dagster}/asset-groups")
        expect(self.page.get_by_text("evaluation", exact=True).first).to_be_visible()
        self.page.wait_for_timeout(SETTLED)
        self.page.mouse.click(700, CHAIN["height"] - 100)  # nothing is there
        self.page.keyboard.press("Alt+E")
        expect(self.page.get_by_text("ksort_rating", exact=True).first).to_be_visible()

    def entry(self, asset: str, name: str, partition: str | None = None) -> None:
        """One entry of an asset's metadata, opened."""
        self.asset(asset, partition)
        row = self.page.locator("tr").filter(has=self.page.get_by_text(name, exact=True)).first
        row.get_by_text("Show Markdown").click()
        expect(self.page.get_by_role("dialog").first).to_be_visible()

    def comparison(self, study: str) -> None:
        """MLflow's comparison of the scorecard runs, by the link in the report's metadata."""
        self.asset(f"{study}/report")
        link = self.page.locator('a[href*="/#/compare-runs"]').first
        address = link.get_attribute("href")
        assert address, "the report's metadata has no link to MLflow's comparison"
        self.page.set_viewport_size(TALL)
        # A report that was made before these pages were served names the usual port.
        self.page.goto(self.mlflow + address[address.index("/#/") :])
        clear = self.button("Clear All")
        expect(clear).to_be_visible()
        close = self.page.get_by_role("button", name="Close")  # the assistant beside the page
        if close.count():
            close.last.click()
        clear.click()
        for box, names in enumerate(COMPARED):
            for name in names:
                self.page.get_by_role("combobox").nth(box).click()
                self.page.keyboard.type(name)
                self.page.wait_for_timeout(500)
                self.page.keyboard.press("Enter")
                self.page.keyboard.press("Escape")


def pictures(study: str, policy: str) -> dict[str, Callable[[Walk], None]]:
    """Return what is pictured of a study; policy: whose images stand for a scorecard."""
    return {
        "assets": Walk.chain,
        "leaderboard": lambda walk: walk.entry(f"{study}/ratings", "leaderboard"),
        "gaps": lambda walk: walk.entry(f"{study}/gaps", "histogram"),
        "scorecard": lambda walk: walk.entry(f"{study}/scorecard", "images", policy),
        "comparison": lambda walk: walk.comparison(study),
    }


@contextmanager
def walking(dagster: str, mlflow: str, chromium: str = CHROMIUM) -> Iterator[Callable[[], Walk]]:
    """Start a browser; give what opens a new tab in it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        context = browser.new_context(viewport=WIDE)
        yield lambda: Walk(context.new_page(), dagster, mlflow)
        browser.close()


def take(name: str, show: Callable[[Walk], None], walk: Walk, folder: Path) -> Path:
    """Go where a picture is, take it and close the tab."""
    show(walk)
    walk.page.wait_for_timeout(SETTLED)
    path = folder / f"{name}.png"
    walk.page.screenshot(path=path)
    walk.page.close()
    return path


def main() -> None:
    """Take every picture, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {list(pictures('', ''))}; all by default")
    parser.add_argument("--chromium", default=CHROMIUM)
    parser.add_argument("--dagster", default="http://127.0.0.1:3000")
    parser.add_argument("--mlflow", default="http://127.0.0.1:5000")
    parser.add_argument("--study", default="miniature", help="whose assets are pictured")
    parser.add_argument("--policy", default="arenapo", help="whose images are pictured")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    shown = pictures(options.study, options.policy)
    with walking(options.dagster, options.mlflow, options.chromium) as tab:
        for name in options.names or shown:
            print(take(name, shown[name], tab(), options.out))


if __name__ == "__main__":
    main()
