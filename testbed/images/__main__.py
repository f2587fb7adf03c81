"""`python -m testbed.images`: build the images where they are missing, and say where they are."""

import sys

from testbed.images import build_images
from testbed.processes import TestbedError


def main() -> None:
    """Build the images and print a line for each: its name and its archive."""
    try:
        images = build_images()
    except TestbedError as error:
        sys.exit(str(error))
    for image in (images.operator, images.agent, images.pause):
        print(f"{image.name}\t{image.archive}")


if __name__ == "__main__":
    main()
