"""The test bed: real servers on loopback, started lazily, once for each pytest process, and ended by their pid.

The classes in here know nothing of pytest, so that benchmarks use them too; `fixtures` makes them fixtures.
"""
