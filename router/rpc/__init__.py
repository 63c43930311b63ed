"""A worker as the gateway calls it: one channel, one stream, its errors, its places and prefixes."""
