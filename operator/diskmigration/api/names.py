"""The names by which the API server and the two programs know each other."""

from typing import Final

GROUP: Final = "diskmigration.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

DISK_MIGRATIONS: Final = "diskmigrations"
STORAGE_DOMAINS: Final = "storagedomains"
LIBVIRT_HOSTS: Final = "libvirthosts"

SYSTEM_NAMESPACE: Final = "diskmigration-system"
LEADER_LEASE: Final = "diskmigration-operator"
"""The Lease in the operator's namespace whose holder works."""

FINALIZER: Final = f"{GROUP}/clean-up"
"""Held by the operator alone: an object goes when its node's agent has reported its clean-up."""

OPERATOR_FIELD_MANAGER: Final = "diskmigration-operator"
AGENT_FIELD_MANAGER: Final = "diskmigration-agent"
