"""The LVM lane: the tests marked `lvm` in a VM with a device-mapper, an LVM and a udev of its own.

The VM's processor is emulated, so it runs on any machine. The control plane and the operator run beside it, on the
machine itself; libvirt, QEMU, the agent and the tests run inside.
"""
