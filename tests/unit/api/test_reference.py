"""docs/reference/api.md tells every field of a spec with the schema's default, and its examples can be read."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from diskmigration.api.disk_migration import ConditionType, DiskMigration, Phase
from diskmigration.api.libvirt_host import LibvirtHost
from diskmigration.api.model import Model
from diskmigration.api.storage_domain import StorageDomain

REPOSITORY = Path(__file__).parents[3]
TEXT = (REPOSITORY / "docs" / "reference" / "api.md").read_text()
MODELS: dict[str, type[Model]] = {
    "DiskMigration": DiskMigration,
    "LibvirtHost": LibvirtHost,
    "StorageDomain": StorageDomain,
}
EXAMPLES: list[dict[str, Any]] = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]


def section(kind: str) -> str:
    """The text from the kind's heading to the next of that level."""
    return re.split(r"^## ", TEXT.partition(f"\n## {kind}")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(kind: str) -> dict[str, list[str]]:
    """The cells after the field's name, by that name."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section(kind).splitlines()
        if line.startswith("| `") and not line.startswith("| `spec") and "True when" not in line
    ]
    return {name.strip("`"): rest for name, *rest in cells if name.strip("`")[0].islower()}


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, part in schema["properties"].items():
        if "properties" in part:
            yield from leaves(part, f"{path}{name}.")
        else:
            yield f"{path}{name}", part


def spec_fields(plural: str) -> dict[str, dict[str, Any]]:
    crd = yaml.safe_load((REPOSITORY / "crds" / f"{plural}.yaml").read_text())
    return dict(leaves(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]))


@pytest.mark.parametrize(("kind", "plural"), [("StorageDomain", "storagedomains"), ("DiskMigration", "diskmigrations")])
def test_every_field_is_told_with_its_default(kind: str, plural: str) -> None:
    fields = spec_fields(plural)
    told = rows(kind)
    assert sorted(told) == sorted(fields)
    for name, part in fields.items():
        default = part.get("default")
        words = str(default).lower() if isinstance(default, bool) else str(default)
        if default is None:
            assert "`" not in told[name][0], name
        else:
            assert told[name][0] == f"`{words}`", name


def test_there_is_an_example_of_each_kind() -> None:
    assert sorted(example["kind"] for example in EXAMPLES) == sorted(MODELS)


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["kind"] for example in EXAMPLES])
def test_an_example_is_read_whole(example: dict[str, Any]) -> None:
    read = MODELS[example["kind"]].from_wire(example).to_wire()
    for part in ("spec", "status"):
        assert set(example.get(part, {})) <= set(read.get(part, {}))


def test_every_phase_and_condition_is_told() -> None:
    told = section("DiskMigration")
    assert [phase for phase in Phase if not re.search(rf"\b{phase.value}\b", told)] == []
    assert [kind for kind in ConditionType if f"| `{kind.value}` |" not in told] == []
