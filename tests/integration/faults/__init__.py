"""Something breaks at a named moment of a migration; nothing is lost, and nothing is left."""
