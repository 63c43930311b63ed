"""Side by side with other engines: measures, prints tables, keeps LOG.md. Nothing in router/ or worker/ imports it."""
