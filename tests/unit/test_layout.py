"""The source root must stay importable: `operator` is a module of the standard library."""

import ast
import importlib.util
from collections.abc import Iterator
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


def test_one_module_alone_has_a_driver_remove_a_volume() -> None:
    agent = REPOSITORY / "operator" / "diskmigration" / "agent"
    calls = {path.name for path in agent.rglob("*.py") for call in _calls_of_remove(path) if "driver" in call}
    assert calls == {"removal.py"}


def test_one_module_alone_reads_the_machines_clock() -> None:
    source = REPOSITORY / "operator" / "diskmigration"
    readers = {
        path.name
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and (ast.unparse(node.value), node.attr) in {("datetime", "now"), ("datetime", "utcnow"), ("time", "time")}
    }
    assert readers == {"clock.py"}


def _calls_of_remove(path: Path) -> Iterator[str]:
    """What `remove` is called on, wherever it is called."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == "remove":
            yield ast.unparse(node.value)
