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
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


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
