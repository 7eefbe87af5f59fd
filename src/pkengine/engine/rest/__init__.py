"""The oVirt-compatible REST API."""
