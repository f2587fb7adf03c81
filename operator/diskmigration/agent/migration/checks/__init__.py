"""What must hold before a migration touches anything. Each check is pure: it judges what the caller has read."""
