"""The composition root: everything is opened, connected and closed here, and nowhere else."""
