"""`pkengine demo`: the whole idea on one machine, with nothing left behind."""
