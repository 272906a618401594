"""Trials: why a signature does not match, found by altering what was signed until it does; no secret is ever shown."""
