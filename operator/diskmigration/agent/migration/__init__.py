"""One migration from its journal to its clean-up: what to do next is decided in `decision`, done in one module a step."""
