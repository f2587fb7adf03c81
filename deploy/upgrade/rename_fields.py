#!/usr/bin/env python3
"""Move the DiskMigrations of version 0.1.0 to the field names of today's CRDs, by kubectl.

Usage: KUBECONFIG=... deploy/upgrade/rename_fields.py SAVED.json

`destination.storageDomain` became `storageDomainName`, and the kind Hypervisor became LibvirtHost. A CRD drops a
field that it does not declare, so the objects are saved to SAVED.json, deleted, and created again under the new CRDs.
Each gets a new uid. Run it again with the same file if it was interrupted: what was saved is never read anew.

The operator must not run meanwhile: its Deployment is deleted, and the new manifests bring it back. The script
refuses to begin while a migration runs, as its agent knows it by its uid.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

NAMESPACE = "diskmigration-system"
CRDS = Path(__file__).resolve().parents[2] / "crds"
ENDED = ("Succeeded", "Failed", "Cancelled")
NOT_BEGUN = (None, "Pending")
GIVEN_BY_THE_SERVER = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "finalizers")
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

Object = dict[str, Any]


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Return what kubectl printed; end the script with what it complained of."""
    ended = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"kubectl {' '.join(arguments)}: {ended.stderr.strip()}")
    return ended.stdout


def renamed(body: Object) -> Object:
    """Return the object as the new CRD has it, without what the API server gives it."""
    metadata = {field: value for field, value in body["metadata"].items() if field not in GIVEN_BY_THE_SERVER}
    annotations = {key: value for key, value in metadata.pop("annotations", {}).items() if key != LAST_APPLIED}
    if annotations:
        metadata["annotations"] = annotations
    status = dict(body.get("status") or {})
    for side in ("source", "destination"):
        if side in status:
            status[side] = with_new_name(status[side])
    spec = {**body["spec"], "destination": with_new_name(body["spec"]["destination"])}
    return {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "metadata": metadata,
        "spec": spec,
        "status": status,
    }


def with_new_name(fields: Object) -> Object:
    """Return the fields with `storageDomainName` in place of `storageDomain`."""
    return {("storageDomainName" if name == "storageDomain" else name): value for name, value in fields.items()}


def save(file: Path) -> None:
    """Stop the operator, and write all DiskMigrations to the file; refuse while one runs."""
    refuse_running("Nothing was changed.")
    of_operator = "app.kubernetes.io/name=diskmigration,app.kubernetes.io/component=operator"
    there = (f"--namespace={NAMESPACE}", "--ignore-not-found")
    kubectl("delete", "deployment", "diskmigration-operator", *there)
    kubectl("wait", "--for=delete", "pod", f"--selector={of_operator}", f"--namespace={NAMESPACE}", "--timeout=120s")
    bodies = refuse_running("The operator is stopped, and nothing else was changed: apply the old manifests again.")
    oldest_first = sorted(bodies, key=lambda body: str(body["metadata"]["creationTimestamp"]))
    whole = file.with_name(f"{file.name}.new")
    whole.write_text(json.dumps(oldest_first, indent=2))
    whole.rename(file)


def refuse_running(state: str) -> list[Object]:
    """Return all DiskMigrations; end the script where one of them runs, and say in what state things are."""
    bodies: list[Object] = json.loads(kubectl("get", "diskmigrations", "--all-namespaces", "--output=json"))["items"]
    running = [body for body in bodies if body.get("status", {}).get("phase") not in (*ENDED, *NOT_BEGUN)]
    if running:
        names = ", ".join(f"{body['metadata']['namespace']}/{body['metadata']['name']}" for body in running)
        sys.exit(f"These migrations run: {names}. {state} Wait until they have ended, or cancel them, and try again.")
    return bodies


def delete(bodies: list[Object]) -> None:
    """Delete the objects that the old CRD still has, and the kind that was renamed."""
    kept = {body["metadata"]["uid"] for body in bodies}
    for body in json.loads(kubectl("get", "diskmigrations", "--all-namespaces", "--output=json"))["items"]:
        if body["metadata"]["uid"] not in kept:
            continue
        named = ("diskmigration", body["metadata"]["name"], f"--namespace={body['metadata']['namespace']}")
        # The operator, which holds the finalizer, does not run; of none of these is anything left to clean up.
        kubectl("patch", *named, "--type=merge", '--patch={"metadata": {"finalizers": null}}')
        kubectl("delete", *named, "--ignore-not-found")
    kubectl("delete", "customresourcedefinition", "hypervisors.diskmigration.dev", "--ignore-not-found")


def restore(bodies: list[Object]) -> None:
    """Apply the new CRDs, and create the objects and their statuses, the oldest first."""
    kubectl("apply", "--server-side", "--force-conflicts", f"--kustomize={CRDS}")
    crd = "customresourcedefinition/diskmigrations.diskmigration.dev"
    kubectl("wait", "--for=condition=Established", "--timeout=60s", crd)
    for body in map(renamed, bodies):
        status = body.pop("status")
        kubectl("apply", "--server-side", "--field-manager=rename-fields", "--filename=-", stdin=json.dumps(body))
        if status:
            named = ("diskmigration", body["metadata"]["name"], f"--namespace={body['metadata']['namespace']}")
            patch = json.dumps({"status": {**status, "observedGeneration": status.get("observedGeneration", -1)}})
            kubectl("patch", *named, "--subresource=status", "--type=merge", f"--patch={patch}")


def main() -> None:
    """Move them, from where an earlier run was interrupted."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    file = Path(sys.argv[1])
    if not file.exists():
        save(file)
    bodies = json.loads(file.read_text())
    delete(bodies)
    restore(bodies)
    sys.stdout.write(f"{len(bodies)} DiskMigrations were moved. Install the new version now, and then delete {file}.\n")


if __name__ == "__main__":
    main()
