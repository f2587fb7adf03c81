"""Read this node's VMs from libvirt, and tell whether libvirtd answers."""
