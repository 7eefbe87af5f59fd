"""The life of a host: deployment, monitoring, status."""
