"""reasons.md is what a user is sent to: it has every reason once, and says of each whether it is retried."""

import re
from pathlib import Path

import yaml

from diskmigration.api.errors import RETRYABLE, Reason

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "reasons.md"
ROWS = [
    [cell.strip() for cell in line.strip("|\n ").split("|")]
    for line in DOCUMENT.read_text().splitlines()
    if line.startswith("| `")
]


def test_every_reason_is_told_once_in_the_order_of_the_code() -> None:
    assert [row[0] for row in ROWS] == [f"`{reason.value}`" for reason in Reason]


def test_each_says_what_it_means_and_what_to_do() -> None:
    for row in ROWS:
        assert len(row) == 4, row
        assert row[1].endswith("."), row
        assert row[2].endswith("."), row


def test_the_retried_ones_are_those_of_the_code() -> None:
    assert {row[3] for row in ROWS} == {"yes", "no"}
    assert {row[0].strip("`") for row in ROWS if row[3] == "yes"} == {reason.value for reason in RETRYABLE}


def test_the_schema_names_every_reason() -> None:
    crd = yaml.safe_load((DOCUMENT.parents[2] / "crds" / "diskmigrations.yaml").read_text())
    status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    of_failure = status["failure"]["properties"]["reason"]["description"]
    of_condition = status["conditions"]["items"]["properties"]["reason"]["description"]
    told = [set(re.findall(r"\b[A-Z]\w+\b", text)) for text in (of_failure, of_condition)]
    assert {reason.value for reason in Reason} <= told[0] | told[1]
    assert {reason.value for reason in RETRYABLE} <= told[0]


def test_a_reason_is_one_word_in_camel_case() -> None:
    assert all(re.fullmatch(r"([A-Z][a-z]+)+", reason.value) for reason in Reason)
