"""The watermark extender: a service of the node that keeps every thin volume on block storage ahead of its guest."""
