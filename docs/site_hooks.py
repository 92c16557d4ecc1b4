"""What mkdocs.yml calls while it makes the site: files outside of docs/ that pages link to become a part of it.

    bash scripts/docs_site.sh
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = "project.md"  # the project's own page, in the site
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)(#[^)]*)?\)")


def readme() -> str:
    """The project's own page, with links as a page of docs/ would have them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace('src="docs/', 'src="')
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", r"](../\1)", text)


def on_files(files, config):
    """Adds the project's own page, and what pages link to, as text."""
    from mkdocs.structure.files import File

    pages = [readme(), *(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))]
    linked = {path for page in pages for path, _ in OUTSIDE.findall(page) if not path.startswith("docs/")}
    files.append(File.generated(config, README, content=readme()))
    for path in sorted(linked - {"README.md"}):
        if (ROOT / path).is_file():
            files.append(File.generated(config, f"source/{path}.txt", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Links to the repository's files lead to the site's copies of them."""
    def inside(link: re.Match) -> str:
        path, anchor = link[1], link[2] or ""
        if path == "README.md":
            return f"]({README}{anchor})"
        if path.startswith("docs/"):
            return f"]({path.removeprefix('docs/')}{anchor})"
        return f"](source/{path}.txt)" if (ROOT / path).is_file() else "](README.md)"  # for a folder, the start

    return OUTSIDE.sub(inside, markdown)
