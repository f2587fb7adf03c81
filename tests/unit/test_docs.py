"""The documents as a reader sees them: tables that are tables, and links that lead somewhere."""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[2]
_DOCUMENTS = sorted([*_REPOSITORY.glob("*.md"), *(_REPOSITORY / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SEPARATOR = re.compile(r"\|( ?:?-+:? ?\|)+")


def _name(path: Path) -> str:
    return str(path.relative_to(_REPOSITORY))


def _tables(text: str) -> Iterator[list[str]]:
    for is_row, lines in groupby(text.splitlines(), key=lambda line: line.startswith("|")):
        if is_row:
            yield list(lines)


def _cells(row: str) -> int:
    # A bar within a code span is written `\|`.
    return len(re.findall(r"(?<!\\)\|", row)) - 1


def _anchors(path: Path) -> set[str]:
    headings = [line.lstrip("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", _DOCUMENTS, ids=_name)
def test_each_table_has_a_header_and_rows_of_its_width(document: Path) -> None:
    for table in _tables(document.read_text()):
        assert len(table) > 1, f"a row alone, as of a table that a blank line has cut: {table[0]}"
        assert _SEPARATOR.fullmatch(table[1]), f"no header above: {table[0]}"
        assert {_cells(row) for row in table} == {_cells(table[0])}, table[0]


@pytest.mark.parametrize("document", _DOCUMENTS, ids=_name)
def test_each_link_within_the_project_leads_somewhere(document: Path) -> None:
    for link in _LINK.findall(document.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link
