"""The project's container images, built from its Dockerfile with no registry and no engine, and kept in the cache.

The base is made with debootstrap, from where this machine's apt gets its packages, under the public base's name; the
Dockerfile is none the wiser. All is in a storage of the project's own: the machine's other images are not touched.
"""

from testbed.images.build import (
    AGENT_NAME,
    OPERATOR_NAME,
    PAUSE_NAME,
    Image,
    Images,
    build_images,
)

__all__ = ["AGENT_NAME", "OPERATOR_NAME", "PAUSE_NAME", "Image", "Images", "build_images"]
