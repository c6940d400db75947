"""Reports about mail: what became of a message that was sent, in the forms of standards and in those of mail servers.

What is read was written by strangers. All of it works in time linear in its input, and raises for none.
"""
