"""The worker service: settings, adapters, one loop, metrics, signals."""
