"""Computed keys and values: blocks and their tree, places, and what is kept on disk."""
