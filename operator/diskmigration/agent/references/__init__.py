"""Tell who needs which volume: the images that stand on each other, and the VMs and records that name them."""
