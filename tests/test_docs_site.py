"""docs/ as a site: every page is in it, every link leads somewhere, and a browser needs no network to read it."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LOADED = re.compile(r"<(?:script|img|link)[^>]*?(?:src|href)=\"(https?:[^\"]*)\"|@import|url\(['\"]?https?:")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Made with all warnings as errors, of which a link that leads nowhere is one."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_every_page_is_in_the_menu_and_in_the_site(site):
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    groups = [[under] if isinstance(under, str) else under for entry in menu for under in entry.values()]
    pages = [page for group in groups for page in group]
    assert sorted(pages) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
    assert all((site / page).with_suffix(".html").exists() for page in pages if page != "README.md")
    assert "The documentation" in (site / "index.html").read_text(encoding="utf-8")


def test_pages_from_outside_and_linked_files_are_there(site):
    assert "quickstart.html" in (site / "project.html").read_text(encoding="utf-8")
    assert "contributing.html#what-is-where" in (site / "project.html").read_text(encoding="utf-8")
    assert "adding_a_method.html" in (site / "contributing.html").read_text(encoding="utf-8")
    assert "project.html" in (site / "index.html").read_text(encoding="utf-8")
    assert (site / "source" / "models" / "cmfn.py.txt").read_bytes() == (ROOT / "models" / "cmfn.py").read_bytes()


def test_nothing_is_loaded_from_the_network(site):
    for page in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert not LOADED.search(page.read_text(encoding="utf-8")), page
