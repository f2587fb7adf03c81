import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.storage import volume_names
from diskmigration.agent.storage.lvm import lvm_names
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError

group_names = st.from_regex(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,20}", fullmatch=True)
lv_names = st.from_regex(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,20}", fullmatch=True)


@given(group=group_names, volume=lv_names)
def test_a_device_name_is_read_as_it_was_written(group: str, volume: str) -> None:
    assert lvm_names.split_device_name(lvm_names.device_name(group, volume)) == (group, volume)


@given(group=group_names, volume=lv_names, layer=st.sampled_from(["real", "cow", "tpool", "cdata"]))
def test_a_hidden_layer_is_no_volume(group: str, volume: str, layer: str) -> None:
    assert lvm_names.split_device_name(f"{lvm_names.device_name(group, volume)}-{layer}") is None


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("vg0-dm--1--0", ("vg0", "dm-1-0")),
        ("vg--a-lv", ("vg-a", "lv")),
        ("a---b", ("a-", "b")),
        ("vg0-src-real", None),
        ("luks", None),
        ("a----b", None),
        ("", None),
        ("-", None),
    ],
)
def test_names_as_the_kernel_has_them(name: str, pair: tuple[str, str] | None) -> None:
    assert lvm_names.split_device_name(name) == pair


@pytest.mark.parametrize(
    "name",
    [
        *("", "-f", "--force", ".", "..", "a/b", "vg0/../x", "a b", "a\n", "ä", "@tag", "a*", "$(id)"),
        *("snapshot1", "pvmove0", "a_tdata", "a_rimage_0", "lvol0_pmspare", "x" * 128),
    ],
)
def test_what_is_no_volumes_name_is_refused(name: str) -> None:
    with pytest.raises(MigrationError, match="Nothing was touched"):
        lvm_names.check_volume("vg0", name)


@given(st.text(max_size=8))
def test_whatever_is_let_through_is_neither_an_option_nor_a_path(name: str) -> None:
    try:
        lvm_names.check_volume("vg0", name)
    except MigrationError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_+.-]+", name)
    assert not name.startswith("-")
    assert name not in (".", "..")


def test_the_names_of_a_migration_are_valid() -> None:
    for role in ("0", "17", volume_names.SNAPSHOT, volume_names.OVERLAY):
        name = volume_names.volume_name("8f2d6f0e-7d0b-4a55-9c39-2f9e1d8b7a11", 1, role, VolumeFormat.QCOW2)
        lvm_names.check_volume("vg_fast", name)


def test_a_group_whose_volumes_would_have_too_long_names_is_refused_with_what_to_do() -> None:
    lvm_names.check_volume_group("v" * 62)
    for name in ("v" * 63, "v-" * 30):
        with pytest.raises(MigrationError, match="vgrename"):
            lvm_names.check_volume_group(name)
    with pytest.raises(MigrationError, match="no name of a volume group"):
        lvm_names.check_volume_group("-f")


@pytest.mark.parametrize(
    ("path", "pair"),
    [
        ("/dev/vg0/src", ("vg0", "src")),
        ("/dev/mapper/vg0-dm--1", ("vg0", "dm-1")),
        ("/dev/sda", None),
        ("/dev/mapper/luks", None),
        ("/dev/disk/by-id/x", None),
        ("/srv/vg0/src", None),
    ],
)
def test_a_path_tells_by_its_form(path: str, pair: tuple[str, str] | None) -> None:
    assert lvm_names.named_by_path(Path(path)) == pair
