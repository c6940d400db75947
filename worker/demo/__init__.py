"""A local identity provider and local mail servers, for `mailquay demo` and for tests.

Everything here listens on the host it is told to (loopback unless said otherwise), keeps its state in memory and
ends with its process. It speaks the protocols of Entra and Exchange Online closely enough that real clients cannot
tell, but it guards nothing: never put it where strangers can reach it.
"""
