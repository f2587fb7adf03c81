import re

from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.storage.driver import Owner
from diskmigration.agent.storage.lvm import tags

UID = "8f2d6f0e-7d0b-4a55-9c39-2f9e1d8b7a11"
OWNER = Owner(migration=UID, virtual_machine="0f6c0f1a-6f5e-4a41-8c1c-2b0c9b1f7c11", node="node-a.example.org")


def test_a_new_volume_tells_whose_it_is() -> None:
    owned = tags.read(tags.of_new_volume(OWNER))
    assert owned == tags.Ownership(is_ours=True, is_incomplete=True, migration=UID, node="node-a.example.org")
    assert f"diskmigration.dev/vm={OWNER.virtual_machine}" in tags.of_new_volume(OWNER)


def test_lvm_can_hold_every_tag() -> None:
    """lvm(8): letters, digits and _ + . - / = ! : # &, no hyphen first, at most 1024 characters."""
    for tag in (*tags.of_new_volume(OWNER), tags.REMOVING, tags.of_progress(2**40)):
        assert re.fullmatch(r"[A-Za-z0-9_+./=!:#&][A-Za-z0-9_+./=!:#&-]{0,1023}", tag)


def test_the_tags_of_others_say_nothing() -> None:
    assert tags.read(["diskmigration.devil", "migration=1", "ours", "diskmigration.dev.example/incomplete"]) == (
        tags.Ownership()
    )


def test_an_administrators_tag_hands_a_volume_over() -> None:
    assert tags.read(["db", "diskmigration.dev"]) == tags.Ownership(is_ours=True)


@given(st.integers(min_value=0, max_value=2**63))
def test_how_far_a_wiping_has_come_is_read_as_it_was_noted(offset: int) -> None:
    tag = tags.of_progress(offset)
    assert tags.is_of_progress(tag)
    assert tags.read([tags.OURS, tags.REMOVING, tag]).wiped_bytes == offset
    assert tags.read([tags.OURS, tags.REMOVING, tag]).is_being_removed


def test_a_note_that_cannot_be_read_has_all_wiped_again() -> None:
    for spoiled in ("", "half", "-1", "1e9"):
        assert tags.read([f"diskmigration.dev/wiped={spoiled}"]).wiped_bytes == 0
