"""The agent that runs on each host."""
