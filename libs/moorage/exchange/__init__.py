"""Exchanges over the Log port: what a subtask writes to, and how far it may run ahead."""
