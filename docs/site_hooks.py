"""What mkdocs.yml calls while it makes the site: files outside of docs/ that pages link to become a part of it.

    bash scripts/docs_site.sh
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "project.md", "CONTRIBUTING.md": "contributing.md"}  # pages from outside of docs/, in the site
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)(#[^)]*)?\)")


def moved(page: str) -> str:
    """A page from outside of docs/, with links as a page of docs/ would have them."""
    text = (ROOT / page).read_text(encoding="utf-8").replace('src="docs/', 'src="')
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", r"](../\1)", text)


def on_files(files, config):
    """Adds the pages from outside of docs/, and what pages link to, as text."""
    from mkdocs.structure.files import File

    pages = [*map(moved, PAGES), *(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))]
    linked = {path for page in pages for path, _ in OUTSIDE.findall(page) if not path.startswith("docs/")}
    for page, name in PAGES.items():
        files.append(File.generated(config, name, content=moved(page)))
    for path in sorted(linked - {*PAGES}):
        if (ROOT / path).is_file():
            files.append(File.generated(config, f"source/{path}.txt", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Links to the repository's files lead to the site's copies of them."""
    def inside(link: re.Match) -> str:
        path, anchor = link[1], link[2] or ""
        if path in PAGES:
            return f"]({PAGES[path]}{anchor})"
        if path.startswith("docs/"):
            return f"]({path.removeprefix('docs/')}{anchor})"
        return f"](source/{path}.txt)" if (ROOT / path).is_file() else "](README.md)"  # for a folder, the start

    return OUTSIDE.sub(inside, markdown)
