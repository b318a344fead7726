"""The reference agent: it does what a real agent does, in code that is easy to read.

It knows only the protocol, no other part of the server. It stores everything that it collects or does in its spool
before it sends it, and deletes it when the server has acknowledged it. So a crash at any moment loses nothing.
"""
