"""What is where inside the lane's VM."""

from pathlib import Path

NODE = "node-a"
PROJECT = Path("/project")
"""The disk with what is tested."""
ACCESS = "access"
"""The files of `testbed.lvm_lane.access.Access`, in there."""
ARGUMENTS = "arguments"
"""More options of pytest, one a line, in there."""
SECONDS = "seconds"
"""How long pytest may run, in there."""
RESULTS = Path("/results")
"""What is in here is unpacked outside when the VM has ended."""
