"""What Prometheus reads: metric families, the types they are counted with, and the HTTP endpoints."""
