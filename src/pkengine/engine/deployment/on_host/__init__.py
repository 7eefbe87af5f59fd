"""What a deployment does on a host, run there by the host's own Python.

The text of these modules is sent to the host, where nothing of ours is installed yet, so
they import each other and the standard library only.

Each step looks at what is there and changes only what is not as wanted, and whatever
interrupts it leaves the old state or the new one, so all may be repeated at any time.
"""
