"""Ask an external source (a program, a Unix socket) for agents that this server does not know.

`requests` decides who asks when, `sources` ask, `answers` reads what they say, `health` checks them at start-up.
"""
