"""A real Kubernetes control plane and a real libvirt host for development and tests, on one machine."""
