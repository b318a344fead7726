"""Measure the running system end to end: `make bench`, or `python -m bench KEY …` for some figures.

Each figure is a ratio, or a cost in CPU or memory, of one run on one machine. The load generator shares the cores with
the server. Unlike absolute rates, such figures can be compared between machines. Each measurement is a module with a
`MEASUREMENT`, and `__main__` lists all of them.
"""
