"""The overlays and components, as an administrator applies, changes and removes them."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.control_plane import ControlPlane, running_control_plane
from tests.integration.api.manifests import domain
from tests.integration.api.overlays import ROOT, write_documented

OVERLAYS = ROOT / "deploy" / "overlays"
DEV = f"--kustomize={OVERLAYS / 'dev'}"

Objects = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture
def own_control_plane(scratch: Path) -> Iterator[ControlPlane]:
    """One with nothing on it: other tests want what these remove."""
    with running_control_plane(scratch / "control-plane") as running:
        yield running


def render(control_plane: ControlPlane, directory: Path) -> Objects:
    """The objects of a kustomization, by kind and name."""
    documents = yaml.safe_load_all(control_plane.kubectl("kustomize", str(directory)))
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def pod_of(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = objects[kind, name]["spec"]["template"]["spec"]
    return spec


def installed(control_plane: ControlPlane) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(control_plane.kubectl("get", DEV, "--output=json"))["items"]
    return found


def versions(control_plane: ControlPlane) -> dict[str, str]:
    return {
        f"{each['kind']} {each['metadata']['name']}": each["metadata"]["resourceVersion"]
        for each in installed(control_plane)
    }


def test_it_is_installed_once_and_removed_whole(own_control_plane: ControlPlane) -> None:
    kubectl = own_control_plane.kubectl
    assert {line.split()[-1] for line in kubectl("apply", DEV).splitlines()} == {"created"}
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "customresourcedefinitions", "--all")
    # The server writes this into the object.
    kubectl("wait", "--for=condition=Dangling=False", "--timeout=30s", "flowschema/diskmigration-leases")
    before = versions(own_control_plane)

    changed = [line for line in kubectl("apply", DEV).splitlines() if not line.endswith(" unchanged")]
    # kubectl sends the selector of a budget every time: it has the patch strategy `replace`.
    assert changed == ["poddisruptionbudget.policy/diskmigration-operator configured"]
    assert versions(own_control_plane) == before

    # From one way of applying to the other there is no conflict; and the second time nothing is written.
    kubectl("apply", "--server-side", DEV)
    before = versions(own_control_plane)
    kubectl("apply", "--server-side", DEV)
    assert versions(own_control_plane) == before

    # As the operator and its agents would have, which do not run here: the API server cannot list what nobody has read
    # yet ("storage is (re)initializing"), and then may forget the definition that it was to remove, for minutes
    # (operator-framework/operator-controller#1437).
    kubectl("get", "diskmigrations,storagedomains,libvirthosts", "--all-namespaces")
    # One that nobody may delete by itself goes with its definition.
    kubectl("apply", "--filename=-", stdin=json.dumps(domain("in-use", loop={"path": "/srv/in-use"})))
    in_use = json.dumps({"status": {"inUse": {"thinVolumes": 1, "virtualMachines": ["web-1"]}}})
    kubectl("patch", "storagedomain", "in-use", "--subresource=status", "--type=merge", f"--patch={in_use}")
    kubectl("delete", DEV, "--wait=false")
    kubectl("wait", "--for=delete", "customresourcedefinitions", "--all", "--timeout=60s")
    # Namespaces are emptied and removed by the controller-manager, which does not run here.
    assert kubectl("get", DEV, "--ignore-not-found", "--output=name").split() == ["namespace/diskmigration-system"]
    phase = kubectl("get", "namespace", "diskmigration-system", "--output=jsonpath={.status.phase}")
    assert phase == "Terminating"


def test_the_documented_overlay_does_what_it_says(control_plane: ControlPlane, tmp_path: Path) -> None:
    objects = render(control_plane, write_documented(tmp_path) / "site")

    assert not any(kind == "ConfigMap" for kind, _ in objects)
    agent = pod_of(objects, "DaemonSet", "diskmigration-agent")
    operator = pod_of(objects, "Deployment", "diskmigration-operator")
    assert agent["nodeSelector"]["diskmigration.dev/libvirt-host"] == "true"
    assert {volume["name"]: volume["hostPath"]["path"] for volume in agent["volumes"]} == {
        "libvirt": "/run/libvirt",
        "dev": "/dev",
        "state": "/var/lib/diskmigration-agent",
        "storage": "/srv/vms",
        "lvm-configuration": "/etc/lvm",
        "lvm-locks": "/run/lock/lvm",
        "lvm-sockets": "/run/lvm",
        "udev": "/run/udev",
    }
    assert agent["hostIPC"] is True
    mounts = {mount["name"]: mount for mount in agent["containers"][0]["volumeMounts"]}
    # The host's paths are the pod's: libvirt and lvm2 are told them.
    assert {name: mount["mountPath"] for name, mount in mounts.items()} == {
        volume["name"]: volume["hostPath"]["path"] for volume in agent["volumes"]
    }
    assert mounts["storage"] == {"name": "storage", "mountPath": "/srv/vms", "mountPropagation": "HostToContainer"}
    for pod, name in ((operator, "operator"), (agent, "agent")):
        assert pod["containers"][0]["image"] == f"registry.example.com/diskmigration-{name}:{_version()}"
    control_plane.kubectl("apply", "--server-side", "--dry-run=server", "--filename=-", stdin=_as_list(objects))


def test_in_another_namespace_nothing_names_the_first(control_plane: ControlPlane, tmp_path: Path) -> None:
    objects = render(control_plane, write_documented(tmp_path) / "elsewhere")
    assert "diskmigration-system" not in yaml.safe_dump(list(objects.values()))


def test_no_tool_prunes_the_kinds_with_all_of_their_objects(control_plane: ControlPlane) -> None:
    objects = render(control_plane, ROOT / "deploy" / "base")
    kinds = [each for (kind, _), each in objects.items() if kind == "CustomResourceDefinition"]
    assert len(kinds) == 3
    for each in kinds:
        annotations = each["metadata"]["annotations"]
        assert annotations["helm.sh/resource-policy"] == "keep"
        assert annotations["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"


def test_without_components_the_agent_has_the_default_root_everywhere(control_plane: ControlPlane) -> None:
    agent = pod_of(render(control_plane, ROOT / "deploy" / "base"), "DaemonSet", "diskmigration-agent")
    mounts = {mount["name"]: mount["mountPath"] for mount in agent["containers"][0]["volumeMounts"]}
    # The host's paths are the pod's: libvirt is told them.
    assert mounts == {volume["name"]: volume["hostPath"]["path"] for volume in agent["volumes"]}
    assert mounts["storage"] == "/var/lib/diskmigration"
    assert agent["nodeSelector"] == {"kubernetes.io/os": "linux"}
    # It sees who has a volume open.
    assert agent["hostPID"] is True


def test_the_development_overlay_takes_images_as_they_are(control_plane: ControlPlane) -> None:
    objects = render(control_plane, OVERLAYS / "dev")
    for kind, name in (("Deployment", "operator"), ("DaemonSet", "agent")):
        (container,) = pod_of(objects, kind, f"diskmigration-{name}")["containers"]
        assert container["image"] == f"localhost/diskmigration-{name}:dev"
        assert container["imagePullPolicy"] == "IfNotPresent"


@pytest.mark.parametrize(
    ("kind", "name", "level"),
    [("Deployment", "diskmigration-operator", "restricted"), ("DaemonSet", "diskmigration-agent", "privileged")],
)
def test_the_pods_need_no_more_than_this_security_level(
    control_plane: ControlPlane, kind: str, name: str, level: str
) -> None:
    """As the API server's Pod Security admission judges the pods that the controllers make."""
    objects = render(control_plane, ROOT / "deploy" / "base")
    template = objects[kind, name]["spec"]["template"]
    namespace = f"pods-{level}"
    control_plane.kubectl("create", "namespace", namespace)
    control_plane.kubectl("label", "namespace", namespace, f"pod-security.kubernetes.io/enforce={level}")
    control_plane.kubectl("create", "serviceaccount", name, f"--namespace={namespace}")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one", "labels": template["metadata"]["labels"]},
        "spec": template["spec"],
    }
    control_plane.kubectl("create", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(pod))


def test_services_and_budget_select_the_pods(control_plane: ControlPlane) -> None:
    objects = render(control_plane, OVERLAYS / "prometheus")
    for kind, component in (("Deployment", "operator"), ("DaemonSet", "agent")):
        name = f"diskmigration-{component}"
        labels = objects[kind, name]["spec"]["template"]["metadata"]["labels"]
        (container,) = pod_of(objects, kind, name)["containers"]
        service = objects["Service", f"{name}-metrics"]
        assert service["spec"]["selector"].items() <= labels.items()
        ports = {port["name"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        probes = [container[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "liveness", "readiness")]
        assert set(probes) <= ports
        monitor = objects["ServiceMonitor", name]["spec"]
        assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= {
            port["name"] for port in service["spec"]["ports"]
        }
        for policy, may_enter in (("diskmigration", False), ("diskmigration-metrics", True)):
            spec = objects["NetworkPolicy", policy]["spec"]
            assert spec["podSelector"]["matchLabels"].items() <= labels.items()
            assert [port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]] == ["http"] * may_enter
    budget = objects["PodDisruptionBudget", "diskmigration-operator"]["spec"]["selector"]["matchLabels"]
    labels = objects["Deployment", "diskmigration-operator"]["spec"]["template"]["metadata"]["labels"]
    assert budget.items() <= labels.items()


def _version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def _as_list(objects: Objects) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects.values())})
