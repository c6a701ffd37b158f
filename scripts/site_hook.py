"""What MkDocs calls while it builds the site: each page as Markdown, and `llms.txt`.

Agents read pages as Markdown: `usage.md` lies beside `usage/`, with the bytes of the repository,
so its links to other pages lead to their Markdown too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

_navigation: list[tuple[Navigation, list[File]]] = []
"""The menu and the pages of the build that runs: MkDocs gives them to an event before its end."""


def on_nav(nav: Navigation, files: Files, **_: Any) -> Navigation:
    """Keep the menu and the pages for the end of the build."""
    _navigation[:] = [(nav, list(files.documentation_pages()))]
    return nav


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Change what the site reads in another way than GitHub.

    A list can follow a line of text at once on GitHub; here it needs an empty line between. The
    site does not have the files outside of `docs/`, so a link to one becomes its name.
    """
    parts = re.split(r"(?ms)(^```.*?^```$)", markdown)
    for number in range(0, len(parts), 2):
        text = re.sub(r"(?m)^(?![ *|>#-]|\d+\.)(.+)\n(?=(?:[*-]|1\.) )", r"\1\n\n", parts[number])
        parts[number] = re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", text)
    return "".join(parts)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Name the Markdown of a page in its head, where programs look for it."""
    up = "../" * page.url.count("/")
    link = f'<link rel="alternate" type="text/markdown" href="{up}{page.file.src_uri}">'
    return output.replace("</head>", f"{link}</head>", 1)


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Write the Markdown of all pages, and the two files that list and hold them."""
    site = Path(config.site_dir)
    nav, files = _navigation[0]
    for file in files:
        target = site / file.src_uri
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_text(file), encoding="utf-8")
    (site / "llms.txt").write_text(overview(config, nav, files), encoding="utf-8")
    whole = "\n\n".join(f"<!-- {file.src_uri} -->\n\n{_text(file)}" for file in files)
    (site / "llms-full.txt").write_text(whole, encoding="utf-8")


def overview(config: MkDocsConfig, nav: Navigation, files: list[File]) -> str:
    """Return `llms.txt`: the title, a summary, and a list of links for each part of the menu."""
    parts = [("Start", [item.file for item in nav.items if isinstance(item, Page)])]
    sections = [item for item in nav.items if isinstance(item, Section)]
    parts += [(one.title, _pages(one)) for one in sections]
    listed = [file for _, found in parts for file in found]
    parts.append(("More", [file for file in files if file not in listed]))
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    for title, found in parts:
        if found:
            lines += ["", f"## {title}", "", *(_entry(file) for file in found)]
    return "\n".join(lines) + "\n"


def _pages(section: Section) -> list[File]:
    return [child.file for child in section.children if isinstance(child, Page)]


def _entry(file: File) -> str:
    title = file.page.title if file.page else file.name
    return f"- [{title}]({file.src_uri}): {first_sentence(_text(file))}"


def _text(file: File) -> str:
    return Path(str(file.abs_src_path)).read_text(encoding="utf-8")


def first_sentence(text: str) -> str:
    """Return the first sentence of a page's prose, without the addresses of its links."""
    blocks = re.sub(r"(?s)<!--.*?-->|```.*?```", "", text).split("\n\n")
    prose = next(b for block in blocks if (b := _without_heading(block)) and b[0] not in "|-*!<>")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(prose.split()))
    return re.split(r"(?<=[.!?:])\s", plain, maxsplit=1)[0].rstrip(":")


def _without_heading(block: str) -> str:
    return "\n".join(line for line in block.splitlines() if not line.startswith("#")).strip()
