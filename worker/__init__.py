"""Decides when, whether and with what guarantee mail is pulled and delivered. What happens to a message: `pipelines`."""
