"""The demo: a running guest's disk moves to block storage and back, and not one record that it wrote is lost."""
