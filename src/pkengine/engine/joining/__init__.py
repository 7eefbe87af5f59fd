"""Hosts that join by a code which a person reads out, without SSH."""
