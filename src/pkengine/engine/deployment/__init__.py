"""Bring the agent to a host: the archive, the steps, the unit, and the program they run there."""
