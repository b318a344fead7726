"""Ask one external source about an agent: a Unix socket, a web service, a database or a program.

`source` says what every source offers. `launch` is the small process that starts the programs, and `complaints` hides
keys in what they write to standard error.
"""
