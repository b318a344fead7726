"""Measure the running system end to end: `make bench`, or `python -m bench KEY …` for some of it.

Each figure is a ratio or a cost in CPU or memory, taken within one run on one machine, with the load generator on the
same cores: such figures can be compared between machines, absolute rates cannot. A measurement is a module with a
`MEASUREMENT`; `__main__` lists them.
"""
