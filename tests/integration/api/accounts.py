"""Users of one namespace, as the cluster's own roles make them."""

from pathlib import Path

from testbed.control_plane import ControlPlane


def folded_roles(control_plane: ControlPlane, role: str) -> list[str]:
    """The project's ClusterRoles that the cluster folds into its own role (`view`, `edit`, `admin`), by their label."""
    label = f"--selector=rbac.authorization.k8s.io/aggregate-to-{role}=true"
    roles = control_plane.kubectl("get", "clusterroles", label, "--output=name").split()
    return sorted(name for one in roles if (name := one.partition("/")[2]).startswith("diskmigration-"))


def user_with(control_plane: ControlPlane, namespace: str, role: str) -> Path:
    """The kubeconfig of a user of that one namespace who has what is folded into the cluster's own role, and the role.

    The folding is the controller-manager's, which does not run here: the roles with its label are bound one by one.
    """
    name = f"user-who-may-{role}"
    control_plane.kubectl("create", "serviceaccount", name, f"--namespace={namespace}")
    for bound in (role, *folded_roles(control_plane, role)):
        control_plane.kubectl(
            "create",
            "rolebinding",
            f"{name}-{bound}",
            f"--clusterrole={bound}",
            f"--serviceaccount={namespace}:{name}",
            f"--namespace={namespace}",
        )
    return control_plane.account_kubeconfig(namespace, name)
