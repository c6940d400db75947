"""One test for each fault: nothing lost, nothing else stopped, and a clear line that names mailbox and remedy."""
