"""What another node publishes keeps a volume, and so does a node of which nothing is known."""

from typing import Any

import pytest

from diskmigration.agent.migration.host_needs import Wanted, is_silent, judge_hosts
from diskmigration.agent.other_hosts import OtherHost
from diskmigration.agent.references.graph import Judgement
from diskmigration.api.libvirt_host import LibvirtHost, VolumeGroup

WANTED = Wanted(frozenset({("nfs", "base")}), is_qcow2=True)
UNSEEN = {"usedBy": "the VM db-1", "reason": "/a cannot be seen"}


def host(*domains: dict[str, Any], unseen: tuple[dict[str, Any], ...] = (), is_live: bool = True) -> OtherHost:
    status = {"storageDomains": [{"ready": True, **domain} for domain in domains], "unseenVolumes": list(unseen)}
    return OtherHost(LibvirtHost.from_wire({"metadata": {"name": "node-b"}, "status": status}), is_current=is_live)


@pytest.mark.parametrize(
    "other",
    [
        host(),
        host({"name": "nfs", "usedVolumes": ["other"]}),
        host({"name": "other", "usedVolumes": ["base"]}),
        host({"name": "nfs", "usedVolumes": []}, unseen=({**UNSEEN, "isRawMedium": True},)),
        host({"name": "other"}, unseen=(UNSEEN,), is_live=False),
    ],
)
def test_a_node_that_does_not_need_it_lets_it_go(other: OtherHost) -> None:
    assert judge_hosts(WANTED, None, [other]) == Judgement()


def test_a_node_that_needs_it_is_named() -> None:
    for is_live in (True, False):
        other = host({"name": "nfs", "usedVolumes": ["base", "other"]}, is_live=is_live)
        [user] = judge_hosts(WANTED, None, [other]).users
        assert "node-b" in user


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (host({"name": "nfs", "usedVolumes": []}, is_live=False), "does not answer"),
        (host({"name": "nfs"}), "not told yet"),
        (host({"name": "nfs", "usedVolumes": []}, unseen=(UNSEEN,)), "db-1 on the node node-b: /a cannot be seen"),
    ],
)
def test_a_node_of_which_something_is_unknown_may_need_it(other: OtherHost, words: str) -> None:
    judgement = judge_hosts(WANTED, None, [other])
    assert judgement.users == ()
    [doubt] = judgement.doubts
    assert words in doubt
    assert "node-b" in doubt


def test_a_raw_volume_may_be_anybodys_medium() -> None:
    other = host({"name": "nfs", "usedVolumes": []}, unseen=({**UNSEEN, "isRawMedium": True},))
    assert judge_hosts(Wanted(WANTED.names, is_qcow2=False), None, [other]).doubts


def test_volume_groups_are_the_same_by_their_uuid_and_not_by_the_name_of_a_domain() -> None:
    group = {"uuid": "one", "lockType": "sanlock"}
    named_so = host({"name": "nfs", "usedVolumes": ["base"], "volumeGroup": {**group, "uuid": "other"}})
    same = host({"name": "san", "usedVolumes": ["base"], "volumeGroup": group})
    here = VolumeGroup(uuid="one", lock_type="sanlock")
    assert judge_hosts(WANTED, here, [named_so]) == Judgement()
    assert judge_hosts(WANTED, here, [same]).users


def test_a_node_is_silent_while_it_does_not_tell() -> None:
    told = {"name": "nfs", "usedVolumes": []}
    assert not is_silent(host(told, unseen=(UNSEEN,)), WANTED, None)
    assert not is_silent(host({"name": "other"}, is_live=False), WANTED, None)
    assert is_silent(host(told, is_live=False), WANTED, None)
    assert is_silent(host({"name": "nfs"}), WANTED, None)
