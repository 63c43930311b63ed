"""Keys as tenants: what they allow, the file they are kept in, the command that changes it."""
