"""The site of the documentation: no warning, every page, no request to other servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown_it import MarkdownIt

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
"""The elements for which a browser asks a server by itself, and the attribute with the address."""
STRUCTURE = ("h2", "h3", "li", "table", "tr", "pre", "blockquote")


class Page(HTMLParser):
    """The elements of a page of the site.

    Attributes:
        loaded: the addresses that a browser loads with the page.
        inside: how often each element of `STRUCTURE` is in the text of the page.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inside: Counter[str] = Counter()
        self._is_text = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._is_text |= tag == "article"
        if self._is_text and tag in STRUCTURE:
            self.inside[tag] += 1
        followed = tag == "link" and given.get("rel") in {"next", "prev", "alternate", "canonical"}
        if tag in LOADING and not followed:
            self.loaded.append(given.get(LOADING[tag]) or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "article":
            self._is_text = False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as the documentation says; a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        # Its makers announce the end of MkDocs with each build; that is no warning of ours.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def sources() -> list[Path]:
    return sorted(DOCS.glob("*.md"))


def built(site: Path, source: Path) -> Page:
    """Return the page of the site that was made from a file."""
    folder = site if source.stem == "index" else site / source.stem
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_every_page_of_the_site_is_there_as_markdown(site: Path) -> None:
    assert len(sources()) > 20
    for source in sources():
        assert (site / source.name).read_bytes() == source.read_bytes()


def test_the_overview_for_agents_links_every_page_with_a_sentence(site: Path) -> None:
    lines = (site / "llms.txt").read_text(encoding="utf-8").splitlines()
    entries = [
        re.fullmatch(r"- \[[^\]]+\]\(([^)]+)\): (.+)", line) for line in lines if "](" in line
    ]
    assert lines[0] == "# agent-pool"
    assert sorted(entry[1] for entry in entries if entry) == [s.name for s in sources()]
    whole = (site / "llms-full.txt").read_text(encoding="utf-8")
    assert all(source.read_text(encoding="utf-8").strip() in whole for source in sources())


def test_no_page_of_the_site_loads_anything_from_another_server(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    loaded = {address for page in pages for address in Page(page.read_text("utf-8")).loaded}
    assert len(pages) > 20
    assert any(address.endswith(".css") for address in loaded)
    assert [one for one in loaded if urlsplit(one).scheme not in {"", "data"}] == []
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import )[\"']?([^\"')\s]+)", sheet.read_text("utf-8"))
        assert [one for one in addresses if urlsplit(one).scheme not in {"", "data"}] == []
    # The theme draws such blocks with a program that it loads from another server.
    assert [page for page in sources() if "```mermaid" in page.read_text("utf-8")] == []


def test_site_and_github_read_lists_and_tables_alike(site: Path) -> None:
    github = MarkdownIt("commonmark").enable("table")
    different = {}
    for source in sources():
        tokens = github.parse(source.read_text(encoding="utf-8"))
        tags = (
            "pre" if token.type == "fence" else token.tag for token in tokens if token.nesting >= 0
        )
        wanted = Counter(tag for tag in tags if tag in STRUCTURE)
        found = built(site, source).inside
        if found != wanted:
            different[source.name] = (found - wanted, wanted - found)
    assert different == {}
