"""A real Kafka, a real Redis and Moorage's services as child processes on loopback.

``processes`` supervises one child; ``kafka`` and ``redis`` start the two servers; ``stack`` starts everything in order.
"""
