"""Benchmarks: Mailquay beside its peers, in one run on one machine. Ratios count, absolute figures are this machine's."""
