"""Adapters of the two ports: one module each, imported only where the settings ask for it."""
