"""The processor shared with other workers: turns, and where threads run."""
