"""What `make scale` runs: many simulated agents and migrations on a real control plane, and the real operator."""
