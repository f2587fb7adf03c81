import pytest

from diskmigration.agent.credentials import Credentials, parse_label


@pytest.mark.parametrize(
    ("label", "credentials"),
    [
        ("+64055:+107", Credentials(64055, 107)),
        ("+0:+0", Credentials(0, 0)),
        # The names are the node's, and the agent's pod has others.
        ("libvirt-qemu:kvm", None),
        ("64055:107", None),
        ("+64055", None),
        ("", None),
    ],
)
def test_a_label_is_believed_where_it_says_numbers(label: str, credentials: Credentials | None) -> None:
    assert parse_label(label) == credentials
