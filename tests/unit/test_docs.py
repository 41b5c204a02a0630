"""What README and docs name is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_links_lead_somewhere() -> None:
    missing = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {target for page in PAGES for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.M)}
    assert named <= targets


def test_paths_in_code_marks_exist() -> None:
    found = {
        path
        for page in PAGES
        for path in re.findall(r"`((?:tests|benchmarks|scripts|docs)/[\w./-]+)`", page.read_text())
    }
    assert found
    assert [path for path in sorted(found) if not (ROOT / path).exists()] == []
