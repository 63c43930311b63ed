"""Where model files come from: `corral pull`."""
