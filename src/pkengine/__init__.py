"""Manage hosts, and authenticate Twisted connections, by pinned public keys without a CA."""

__version__ = "0.1.0.dev0"
