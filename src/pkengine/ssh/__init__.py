"""Reach a host by SSH: judge its key, log in, run commands, upload."""
