"""Storage domains on this node: the volumes, and the programs that make, measure, fill, extend and remove them.

One module a kind of domain, behind the protocol in `driver`. Nothing outside runs qemu-img, losetup or lvm.
"""
