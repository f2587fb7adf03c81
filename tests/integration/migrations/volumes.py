"""The names of what migrations make, as an administrator finds them."""


def made_volume(uid: str, role: str | int, *, attempt: int = 1, image_format: str = "qcow2") -> str:
    """Return the name of a volume: the copy at that position of the chain, `snapshot` or `overlay`."""
    return f"dm-{uid}-{attempt}-{role}.{image_format}"
