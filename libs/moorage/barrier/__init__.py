"""What a frame is worth, and when a barrier has arrived from everywhere."""
