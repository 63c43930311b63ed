"""Tokens guessed ahead: by lookup in the text, by a small model, and who of them is worth asking."""
