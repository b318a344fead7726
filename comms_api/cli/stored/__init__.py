"""The commands that show the data of agents."""
