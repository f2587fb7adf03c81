"""The names of VMs are found again by the next agent, and nothing that is there in their place stops it."""

from pathlib import Path

import pytest

from diskmigration.agent.hypervisor.status_files import names_in
from diskmigration.agent.node.kept_names import FILE_NAME, read, to_text


def test_the_next_agent_reads_what_was_kept(tmp_path: Path) -> None:
    names = {"uuid-b": 'b \u2028"', "uuid-a": "a"}
    (tmp_path / FILE_NAME).write_text(to_text(names))
    assert read(tmp_path) == names


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "[" * 100_000], ids=["empty", "cut", "list", "number", "deep"])
def test_a_damaged_file_is_passed_over(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    assert read(tmp_path) == {}
    assert FILE_NAME in str(caplog.records[0].__dict__)


def test_without_a_file_nothing_is_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path) == {}
    assert not caplog.records


def test_libvirts_status_files_name_the_vms_that_run(tmp_path: Path) -> None:
    texts = {
        "web-1.xml": "<domstatus state='running'><domain id='1'><name>web-1</name><uuid>u1</uuid></domain></domstatus>",
        "cut.xml": "<domstatus><domain>",
        "empty.xml": "",
        "other.xml": "<network><name>n</name><uuid>u2</uuid></network>",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert names_in(tmp_path.glob("*.xml")) == {"u1": "web-1"}
    assert names_in([tmp_path / "gone.xml"]) == {}
