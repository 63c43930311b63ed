"""Workers on other hosts: found, connected, watched, left."""
