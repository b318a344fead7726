"""The agent's memory: one SQLite file that survives a crash at any moment.

Collected items and the position up to which they were collected are stored in one transaction. So are the deletion of
acknowledged items and their count. After a crash nothing is missing, and at most one batch is sent again.
"""
