"""How far a limit on processor time is stretched, because a machine that does other work counts more of it."""

BUSY = 4
"""What these limits guard against, quadratic time, takes minutes; figures of speed are the business of `bench/`."""
