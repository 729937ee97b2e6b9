"""What every service does the same way: settings to adapters, logging, metrics, signals, the loop, its end."""
