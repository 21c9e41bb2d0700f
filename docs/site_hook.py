"""MkDocs' hook (mkdocs.yml): takes pages from outside docs/ into the site, and makes links hold on the forge and there.

A link from a page to a file outside docs/ leads to a page of the site that shows this file.
"""

import logging
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
PROJECT = DOCS.parent
PAGES = {
    PROJECT / "README.md": "index.md",
    PROJECT / "CONTRIBUTING.md": "contributing.md",
    PROJECT / "CHANGELOG.md": "changelog.md",
    PROJECT / "benchmarks" / "README.md": "measuring.md",
}
FILES = "files/"  # below which pages show what lies elsewhere in the repository
LINK = re.compile(r"(?<=\]\()[^):#\s]+(?=[)#\s])")  # without those that have a scheme
IMAGE = re.compile(r'<img src="(?P<path>\S+)" width="(?P<width>\d+)" alt="(?P<alt>[^"]*)">')
LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\s\">]+")
# A file of the repository, kept out of the search.
FILE_PAGE = "---\nsearch: {{exclude: true}}\n---\n# {name}\n{files}"
LOGGER = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages outside docs/, and one for each file that pages link to."""
    pages = [*PAGES, *DOCS.glob("*.md")]
    linked = {outside(page, link) for page in pages for link in LINK.findall(page.read_text())}
    for page, uri in PAGES.items():
        files.append(File.generated(config, uri, content=page.read_text()))
    for path in sorted(linked - PAGES.keys() - {None}):
        files.append(File.generated(config, address(path), content=shown(path)))


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links and images those of the site, so that MkDocs checks all of them; code that is shown stays as it is."""
    if page.file.src_uri.startswith(FILES):
        return text
    sources = {uri: path for path, uri in PAGES.items()}
    source = sources.get(page.file.src_uri, DOCS / page.file.src_uri)
    text = IMAGE.sub(r'![\g<alt>](\g<path>){ width="\g<width>" }', text)
    return LINK.sub(lambda link: moved(source, link[0]), text)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    """Warn, which ends a strict build, where a page loads something from outside."""
    for found in LOADED.findall(output):
        LOGGER.warning("%s loads something from outside: %s", page.file.src_uri, found)


def target(page: Path, link: str) -> Path:
    """Return the file that a page links to."""
    return (page.parent / link).resolve()


def outside(page: Path, link: str) -> Path | None:
    """Return the file outside docs/ that a page links to, or None where it links to none that there is."""
    path = target(page, link)
    is_there = path.exists() and path.is_relative_to(PROJECT) and not path.is_relative_to(DOCS)
    return path if is_there else None


def moved(page: Path, link: str) -> str:
    """Return a link of a page as it is on the site, where all pages lie in one folder; wrong ones stay as they are."""
    path = target(page, link)
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return address(path) if outside(page, link) else link


def address(path: Path) -> str:
    """Return where the site has a file that lies outside docs/."""
    return PAGES.get(path, f"{FILES}{path.relative_to(PROJECT).as_posix()}.md")


def shown(path: Path) -> str:
    """Return the page that shows a file, or a folder's files."""
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    blocks = [f'\n````{file.suffix[1:]} title="{file.name}"\n{file.read_text()}````\n' for file in files]
    return FILE_PAGE.format(name=path.relative_to(PROJECT).as_posix(), files="".join(blocks))
