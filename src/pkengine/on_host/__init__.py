"""What a deployment does on a host, run there by the host's own Python.

The engine sends the text of these modules to a host by SSH, where nothing of ours may be
installed yet, so they import each other and the standard library only.  An agent that is
installed brings all of them but `main` and what edits ``authorized_keys``, and performs the
same steps by itself.

Each step looks at what is there and changes only what is not as wanted, and whatever
interrupts it leaves the old state or the new one, so all may be repeated at any time.
"""
