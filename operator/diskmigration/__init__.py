"""Moves a running virtual machine's disk between storage domains."""
