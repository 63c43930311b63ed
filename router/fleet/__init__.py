"""Which models are loaded: sizes, plans, and the task that carries them out."""
