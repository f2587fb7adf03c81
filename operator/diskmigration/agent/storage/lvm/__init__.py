"""Storage domains of kind `lvm`: a volume group of the node, each volume a logical volume of it.

`names`, `tags`, `arguments`, `report` and `answers` are pure; `group` runs lvm2's commands and `wiping` blkdiscard;
`driver` is what the rest of the agent sees.
"""
