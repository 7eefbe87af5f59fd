"""The authenticators: how two ends of a connection prove who they are."""
