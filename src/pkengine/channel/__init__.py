"""Records, JSON-RPC both ways, and the connections that carry them."""
