"""A whole Kubernetes cluster on one machine, with a libvirt host for each of its nodes."""

from testbed.cluster.node import STORAGE_ROOT, Node
from testbed.cluster.running import Cluster, running_cluster

__all__ = ["STORAGE_ROOT", "Cluster", "Node", "running_cluster"]
