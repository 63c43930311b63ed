"""What the gateway says of itself: metrics, logs of requests, traces."""
