"""The operator: finds a migration's node, holds it until there is room, and hands it to that node's agent.

It moves no data and never speaks to libvirt: it reads the three kinds and the agents' Leases, and decides.
"""
