"""
What databases do to a buffer: connections cut, servers killed, hung, full, read-only, locked; and what is in the table afterwards.
"""
