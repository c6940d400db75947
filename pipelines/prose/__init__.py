"""Readable text: HTML and flowed text as lines, and the new words of a reply told from the quoted ones.

What is read was written by strangers. All of it works in time linear in its input, and raises for none.
"""
