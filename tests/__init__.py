"""Mailquay's tests."""
