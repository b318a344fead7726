"""Ask an external source for agents that this server does not know.

`requests` schedules the lookups, and `sources` run them. `answers` parses the answers, `limits` counts failures,
`flights` lets all nodes ask once at a time, and `health` checks the sources at start-up.
"""
