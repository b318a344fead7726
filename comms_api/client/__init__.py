"""The reference agent: what a real agent does, in a form that can be read.

It knows the protocol and nothing else of the server. What it has collected or done is in its spool before anybody
hears of it, and leaves the spool when the server has acknowledged it: a crash at any moment loses nothing.
"""
