"""`kubectl delete -k`, and a second installation after it. The last of the folder: nothing stays as it was."""

import pytest

from testbed.cluster import Cluster
from tests.e2e import installation


@pytest.mark.nightly
def test_it_can_be_removed_and_comes_back(installed: Cluster) -> None:
    installation.delete(installed)
    kinds = "customresourcedefinitions,clusterroles,clusterrolebindings,validatingadmissionpolicies,namespaces"
    left = installed.kubectl("get", kinds, "--output=name").splitlines()
    assert [name for name in left if "diskmigration" in name] == []
    installation.apply(installed)
    installation.wait_until_up(installed)
