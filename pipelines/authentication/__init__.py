"""Who sent a message: what servers on its way wrote down (RFC 8601), and what its signatures say now (RFC 6376, RFC 8617).

What is read was written by strangers. All of it works in time linear in its input.
"""
