"""Trials: why a signature does not match or a body cannot be read, found by trying; no secret is ever shown."""
