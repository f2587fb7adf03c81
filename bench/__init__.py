"""`make bench`: what the project costs beside the bare tools and a classical extender, as ratios of one run."""
