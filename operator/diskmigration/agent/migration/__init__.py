"""One migration from its journal to its clean-up: `decision` says what to do next, one module a step does it."""
