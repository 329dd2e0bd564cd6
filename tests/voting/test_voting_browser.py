"""The page in a real browser: keys, touch, undo, ranking, reload, offline, and how it reads aloud.

`pytest --basetemp DIR` keeps the pictures that it takes of a large and a small screen.
"""

import shutil
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn
from voting_world import make_study, written

from voting.asking import Asking
from voting.ballots import Ballots
from voting.guard import secret_of
from voting.server import build_app
from voting.study import open_study

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
LARGE = {"viewport": {"width": 1400, "height": 900}}
SMALL = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A study, the page over it and its address."""
    folder = tmp_path_factory.mktemp("study")
    with serving(make_study(folder)) as (asking, url):
        yield folder, asking, url


@contextmanager
def serving(study):
    opened = open_study(study)
    asking = Asking(opened, secret_of(opened.state), Ballots(opened.landing))
    app = build_app(asking, None)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield asking, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    asking.ballots.close()


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visiting(chromium, url, **screen):
    """Yield a new rater's tab; any error in the page is the test's."""
    context = chromium.new_context(**screen)
    tab = context.new_page()
    faults = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda said: faults.append(said.text) if "Security" in said.text else None)
    try:
        tab.goto(url)
        ready(tab)
        yield tab
        assert faults == []
    finally:
        context.close()


def ready(tab):
    """Wait until a question is on the screen."""
    playwright.expect(tab.locator("main")).to_have_attribute("aria-busy", "false", timeout=30_000)


def votes_of(tab, count):
    playwright.expect(tab.locator("#progress")).to_have_text(
        f"{count} vote{'s' * (count != 1)}", timeout=30_000
    )
    ready(tab)


def test_a_vote_by_each_key_and_undo(served, chromium, tmp_path):
    folder, _, url = served
    before = len(written(folder))
    with visiting(chromium, url, **LARGE) as tab:
        for count, key in enumerate("abtx", start=1):
            tab.keyboard.press(key)
            votes_of(tab, count)
        rows = written(folder)[before:]
        assert [row["outcome"] for row in rows] == ["a", "b", "tie", "both_bad"]
        last = rows[-1]
        assert tab.locator("#said").text_content() == (
            f"Left was {last['model_a']}, right {last['model_b']}"
        )
        tab.keyboard.press("z")
        votes_of(tab, 3)
        # What was taken back is on the screen again; the prompt's markup is only text.
        assert tab.locator("#prompt").text_content() == last["prompt"]
        assert tab.locator("#prompt b").count() == 0
        shown = [image.get_attribute("src") for image in tab.locator("#images img").all()]
        assert shown == [f"/images/{name}" for name in last["items"]]
        tab.screenshot(path=tmp_path / "large.png")
        tab.keyboard.press("Control+a")  # the browser's own keys stay its own
        tab.keyboard.press("p")
        tab.keyboard.press("a")
        tab.wait_for_timeout(300)
        assert len(written(folder)) == before + 3


def test_a_vote_by_touch_on_a_telephone(served, chromium, tmp_path):
    folder, _, url = served
    before = len(written(folder))
    with visiting(chromium, url, **SMALL) as tab:
        tab.screenshot(path=tmp_path / "small.png")
        first = tab.locator("#images button").first
        first.tap()
        votes_of(tab, 1)
        tab.get_by_role("button", name="Tie").tap()
        votes_of(tab, 2)
        assert [row["outcome"] for row in written(folder)[before:]] == ["a", "tie"]
        # Everything fits: no sideways scrolling, both images and all answers on one screen.
        wide = tab.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390
        for each in tab.locator("#images button, #answers button, #more button").all():
            box = each.bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= 780
            assert min(box["width"], box["height"]) >= 44


def test_four_are_ranked_by_keys_and_by_drag(served, chromium, tmp_path):
    folder, _, url = served
    with visiting(chromium, url, **LARGE) as tab:
        tab.get_by_role("button", name="Rank four").click()
        playwright.expect(tab.locator("#images button")).to_have_count(4)
        ready(tab)
        tab.screenshot(path=tmp_path / "four.png")
        tab.locator("#images button").nth(3).focus()
        tab.keyboard.press("1")  # the last one first
        tab.keyboard.press("ArrowRight")  # then second
        tab.keyboard.press("Enter")
        votes_of(tab, 1)
        assert written(folder, "rankings")[-1]["ranks"] == [1, 3, 4, 2]
        cards = tab.locator("#images button")
        start, end = (cards.nth(k).bounding_box() for k in (0, 2))
        tab.mouse.move(start["x"] + 50, start["y"] + 50)
        tab.mouse.down()
        tab.mouse.move(end["x"] + 60, end["y"] + 50, steps=8)
        tab.mouse.up()
        assert cards.nth(2).get_attribute("aria-label") == "First image, place 3 of 4"
        tab.get_by_role("button", name="Send this order").click()
        votes_of(tab, 2)
        assert written(folder, "rankings")[-1]["ranks"] == [3, 1, 2, 4]
        tab.keyboard.press("z")
        votes_of(tab, 1)
    with visiting(chromium, url, **SMALL) as tab:
        tab.get_by_role("button", name="Rank four").tap()
        playwright.expect(tab.locator("#images button")).to_have_count(4)
        ready(tab)
        tab.screenshot(path=tmp_path / "small_four.png")
        tab.get_by_role("button", name="Send this order").tap()
        votes_of(tab, 1)


def test_a_reload_in_the_middle_shows_the_same_pair(served, chromium):
    folder, _, url = served
    with visiting(chromium, url, **LARGE) as tab:
        tab.keyboard.press("a")
        votes_of(tab, 1)
        addresses = "[...document.querySelectorAll('#images img')].map((i) => i.src)"
        before = tab.evaluate(addresses)
        tab.reload()
        votes_of(tab, 1)
        assert tab.evaluate(addresses) == before
        count = len(written(folder))
        tab.keyboard.press("b")
        votes_of(tab, 2)
        assert len(written(folder)) == count + 1


def test_a_vote_given_offline_counts_once_when_the_line_is_back(served, chromium):
    folder, _, url = served
    count = len(written(folder))
    with visiting(chromium, url, **LARGE) as tab:
        tab.context.set_offline(True)
        tab.keyboard.press("a")
        said = tab.locator("#said")
        playwright.expect(said).to_contain_text("You are offline. Your vote is kept here")
        assert len(written(folder)) == count
        tab.context.set_offline(False)
        votes_of(tab, 1)
        assert len(written(folder)) == count + 1
        # An answer that was lost on its way: the vote is there already, and is not counted again.
        tab.route("**/api/vote", lambda route: (route.fetch(), route.abort()), times=1)
        tab.keyboard.press("b")
        playwright.expect(said).to_contain_text("No answer yet")
        votes_of(tab, 2)
        assert len(written(folder)) == count + 2
        tab.keyboard.press("z")
        votes_of(tab, 1)
        assert len(written(folder)) == count + 1


def test_a_slow_image_does_not_show_which_is_which(served, chromium):
    _, _, url = served
    with visiting(chromium, url, **LARGE) as tab:
        held = []
        tab.route(
            "**/images/*", lambda route: held.append(route) if not held else route.continue_()
        )
        shown = "[...document.querySelectorAll('#images img')].map((i) => i.src)"
        before = tab.evaluate(shown)
        tab.keyboard.press("a")
        playwright.expect(tab.locator("#progress")).to_have_text("1 vote")
        tab.wait_for_timeout(500)
        # One of the new images is here, and neither is shown.
        assert len(held) == 1
        assert tab.evaluate(shown) == before
        assert tab.locator("main").get_attribute("aria-busy") == "true"
        held[0].continue_()
        ready(tab)
        assert tab.evaluate(shown) != before


def test_what_a_screen_reader_hears(served, chromium):
    _, _, url = served
    with visiting(chromium, url, **LARGE) as tab:
        tree = tab.locator("body").aria_snapshot()
        for line in [
            '- heading "Which image is better?" [level=1]',
            '- navigation "How to vote":',
            '- button "Two" [pressed]',
            '- list "Images":',
            '- button "Left image, A":',
            '- button "Right image, B":',
            '- group "Your vote":',
            '- button "Left A"',
            '- button "Tie T"',
            '- button "Both bad X"',
            '- button "Right B"',
            '- button "Undo Z" [disabled]',
        ]:
            assert line in tree, tree
        # The keyboard alone reaches everything, and the focus can be seen.
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.id") == "mode-pair"
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            assert contrast(tab, "body") >= 7.0
            assert contrast(tab, "#answers button") >= 7.0


def contrast(tab, selector):
    """WCAG 2.2's contrast ratio of text and background: (L1 + 0.05) / (L2 + 0.05)."""
    colours = tab.evaluate(
        "(s) => { const c = getComputedStyle(document.querySelector(s));"
        " return [c.color, c.backgroundColor].map((v) => v.match(/[0-9.]+/g).slice(0, 3)) }",
        selector,
    )

    def luminance(colour):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (float(each) / 255 for each in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)
