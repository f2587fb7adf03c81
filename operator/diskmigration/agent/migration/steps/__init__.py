"""One module a step. Each may be repeated after a crash at any point: it looks first, then does what is missing."""
