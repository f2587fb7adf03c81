"""The source root must stay importable: `operator` is a module of the standard library."""

import importlib.util
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_the_source_root_is_no_package() -> None:
    assert (REPOSITORY / "operator").is_dir()
    assert not (REPOSITORY / "operator" / "__init__.py").exists()


def test_operator_is_the_standard_librarys() -> None:
    found = importlib.util.find_spec("operator")
    assert found is not None
    assert found.origin is not None
    assert REPOSITORY not in Path(found.origin).parents


def test_every_folder_of_code_is_a_package() -> None:
    source = REPOSITORY / "operator" / "diskmigration"
    folders = {module.parent for module in source.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
