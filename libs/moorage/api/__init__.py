"""What people who write pipelines import; ``moorage`` itself re-exports it."""
