"""What the demo's user applies, as YAML."""

from pathlib import Path

NAMESPACE = "vms"
FILES = "files"
LOOPS = "loops"


def storage_domains(directory: Path) -> str:
    """Return the two StorageDomains, whose volumes lie below a directory.

    The sizes of thin provisioning are small, so that a short demo shows many extensions.
    """
    return f"""\
apiVersion: diskmigration.dev/v1alpha1
kind: StorageDomain
metadata: {{name: {FILES}}}
spec:
  file: {{path: {directory / FILES}}}
  allowedNamespaces: [{NAMESPACE}]
---
apiVersion: diskmigration.dev/v1alpha1
kind: StorageDomain
metadata: {{name: {LOOPS}}}
spec:
  loop: {{path: {directory / LOOPS}}}
  thinProvisioning: {{highWatermark: 16Mi, chunkSize: 16Mi, replicationChunkSize: 16Mi}}
  allowedNamespaces: [{NAMESPACE}]
"""


def disk_migration(name: str, *, virtual_machine: str, destination: str) -> str:
    """Return the move of a VM's disk vda."""
    return f"""\
apiVersion: diskmigration.dev/v1alpha1
kind: DiskMigration
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  virtualMachine: {{name: {virtual_machine}}}
  disk: vda
  destination: {{storageDomainName: {destination}}}
  bandwidth: 80Mi    # bytes a second: slow enough to be watched
"""
