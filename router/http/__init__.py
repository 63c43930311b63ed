"""The HTTP border before any endpoint: hosts, origins, keys, sizes, errors, and the sockets listened on."""
