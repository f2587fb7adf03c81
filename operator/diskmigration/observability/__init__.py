"""How the two programs tell what they do."""
