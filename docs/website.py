"""What mkdocs does beside mkdocs.yml: pages and files from outside docs/, none of them copied.

README.md is the first page and CONTRIBUTING.md another one; a file of the project that a page links
to is part of the site under source/.
"""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
# How a reader comes to them; pages that are not named here follow by name.
FIRST = ("guide/first_real_study.md", "guide/votes.md", "guide/training.md", "guide/evaluation.md")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every page of guide/ and evidence/, each called by its own heading."""
    sections = {"How to do it": "guide", "What was measured": "evidence"}
    listed = [{name: pages(ROOT / "docs", folder)} for name, folder in sections.items()]
    ends = [{"The library": "api.md"}, {"Contributing": "contributing.md"}]
    config.nav = [{"Home": "index.md"}, *listed, *ends]
    return config


def pages(docs: Path, folder: str) -> list[str]:
    """Return the pages below a folder of docs, in the order of the site."""
    found = {path.relative_to(docs).as_posix() for path in (docs / folder).rglob("*.md")}
    return [*(each for each in FIRST if each in found), *sorted(found - set(FIRST))]


def place(linked: str) -> str:
    """Return where a file of the project lies in the site, from its path in the project."""
    if linked in PAGES:
        return PAGES[linked]
    return linked.removeprefix("docs/") if linked.startswith("docs/") else f"source/{linked}"


def moved(text: str, page: str, found: Callable[[str], object] = str) -> str:
    """Return a page's text with its links as the site needs them.

    page: its path in the project. found: called with the project's path of each link.
    """

    def link(match: re.Match[str]) -> str:
        linked = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[1]))
        found(linked)
        return f"]({posixpath.relpath(place(linked), posixpath.dirname(place(page)) or '.')}"

    return LINK.sub(link, text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside of docs/, and replace the links to it."""
    linked: set[str] = set()
    for page in [*PAGES, *(f"docs/{each.src_uri}" for each in files.documentation_pages())]:
        text = moved((ROOT / page).read_text(encoding="utf-8"), page, linked.add)
        old = files.get_file_from_path(place(page))
        if old is not None:
            files.remove(old)
        files.append(File.generated(config, place(page), content=text))
    for path in sorted(linked):
        if place(path).startswith("source/") and (ROOT / path).is_file():
            files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))
    return files
