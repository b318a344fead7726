"""The duties of a process: work that it repeats in the background, and the health of each duty."""
