import pytest

from diskmigration.agent.storage.lvm import lvm_commands

LINES = [
    lvm_commands.report_group("vg0"),
    lvm_commands.report_volumes("vg0"),
    lvm_commands.create("vg0", "v", extents=3, tags=("a", "b"), exclusive=False),
    lvm_commands.extend("vg0", "v", size_bytes=2**30),
    lvm_commands.activate("vg0", ["v"], exclusive=True),
    lvm_commands.refresh("vg0", "v"),
    lvm_commands.change_tags("vg0", ["v", "w"], add=["a"], remove=["b"]),
    lvm_commands.remove("vg0", "v"),
]


@pytest.mark.parametrize("line", LINES, ids=[line[0] for line in LINES])
def test_names_stand_behind_the_end_of_the_options(line: list[str]) -> None:
    names = line[line.index("--") + 1 :]
    assert names
    assert all(name.startswith("vg0") for name in names)


def test_reports_are_in_bytes_without_units() -> None:
    line = " ".join(lvm_commands.report_volumes("vg0"))
    assert "--reportformat json --units b --nosuffix --binary" in line
    assert "lv_name,lv_uuid,lv_size,lv_tags,lv_attr" in line


def test_a_volume_is_made_in_whole_extents_with_its_tags() -> None:
    line = " ".join(lvm_commands.create("vg0", "v", extents=3, tags=("a", "b"), exclusive=False))
    assert line.endswith("--activate y --extents 3 --addtag a --addtag b --name v -- vg0")
    assert "--wipesignatures y" in line


def test_a_shared_group_is_activated_exclusively() -> None:
    assert "--activate ey" in " ".join(lvm_commands.create("vg0", "v", extents=3, tags=(), exclusive=True))
    assert lvm_commands.activate("vg0", ["v"], exclusive=True) == ["lvchange", "--activate", "ey", "--", "vg0/v"]
    assert lvm_commands.activate("vg0", ["v"], exclusive=False) == ["lvchange", "--activate", "y", "--", "vg0/v"]


@pytest.mark.parametrize(("wished", "said"), [(512, 512), (513, 1024), (1, 512), (2**40 + 1, 2**40 + 512)])
def test_an_extension_is_said_in_whole_sectors(wished: int, said: int) -> None:
    assert lvm_commands.extend("vg0", "v", size_bytes=wished) == ["lvextend", "--size", f"{said}b", "--", "vg0/v"]


def test_tags_are_taken_off_and_added_in_one_command() -> None:
    assert lvm_commands.change_tags("vg0", ["v", "w"], add=["a"], remove=["b"]) == [
        *["lvchange", "--deltag", "b", "--addtag", "a", "--", "vg0/v", "vg0/w"],
    ]


@pytest.mark.parametrize("line", LINES, ids=[line[0] for line in LINES])
def test_a_command_can_be_told_its_devices(line: list[str]) -> None:
    command, option, devices, *rest = lvm_commands.confined(line, ["/dev/vdb", "/dev/mapper/mpatha"])
    assert (command, option, devices) == (line[0], "--devices", "/dev/vdb,/dev/mapper/mpatha")
    is_picky = rest[:2] == ["--select", "vg_missing_pv_count=0"]
    assert is_picky == (command in ("lvchange", "lvremove"))
    assert rest[2 * is_picky :] == line[1:]
