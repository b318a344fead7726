"""Ask an external source for agents that this server does not know.

A source is a program, a Unix socket, a web service or a database. `requests` schedules the lookups; `sources`, `web`,
`sql` and `programs` run them. `answers` parses the answers, `limits` counts failures, and `health` checks the sources
at start-up.
"""
