"""What a gateway is told: flags and variables as tables of rows, and what is made of them and of corral.toml."""
