"""The site is built from README and docs/, and every link in it leads somewhere."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("material", reason="mkdocs-material is in the group `docs`")


class Links(HTMLParser):
    """The addresses that a page names, and the places in it that can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.targets += [found[key] for key in ("href", "src") if found.get(key)]
        self.places |= {found["id"]} if "id" in found else set()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_has_its_own_and_every_link_and_image_is_there(site):
    pages = {path.resolve(): Links(path) for path in site.rglob("index.html")}
    docs = ROOT / "docs"
    written = [*docs.glob("guide/**/*.md"), *docs.glob("evidence/**/*.md")]
    assert len(pages) >= len(written) + len(["index", "api", "contributing"])
    broken = []
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            linked = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            linked = linked / "index.html" if linked.is_dir() else linked
            known = pages[linked].places if linked in pages else None
            if not linked.is_file() or (parts.fragment and known and parts.fragment not in known):
                broken.append((page.relative_to(site).as_posix(), target))
    assert broken == []


def test_the_first_page_is_the_readme_and_asks_nobody_else_for_anything(site):
    first = (site / "index.html").read_text()
    assert "Human votes between text-to-image models" in first
    for name in ("assets", "leaderboard", "gaps", "comparison"):
        assert (site / "images" / f"{name}.png").is_file()
        assert f'src="images/{name}.png"' in first
    fetched = [each for each in Links(site / "index.html").targets if "fonts.g" in each]
    assert fetched == []
    assert (site / "source/experiments/own_votes.toml").is_file()


def test_the_library_s_page_has_every_public_name(site):
    import arena

    places = Links(site / "api" / "index.html").places
    assert {name.lower() for name in arena.__all__} <= places
