"""What is known of this node: its VMs as libvirt describes them, and whether libvirtd answers."""
