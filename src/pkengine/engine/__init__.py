"""The engine that manages hosts."""
