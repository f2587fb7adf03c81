"""A real Linux guest that writes numbered, checksummed records to its disk without pause, and what judges its records.

The guest is Debian's cloud kernel with one program (`writer/`, in Go) as its process 1. Nothing it does is simulated:
its writes go through its own virtio driver and block layer, and it says on its serial console what the disk has
acknowledged.
"""
