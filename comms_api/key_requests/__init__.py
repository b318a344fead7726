"""Ask an external source (a program, a Unix socket) for agents that this server does not know.

`requests` schedules the lookups, `sources` and `programs` run them, `answers` parses the answers, and `health` checks
the sources at start-up.
"""
