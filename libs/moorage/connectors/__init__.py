"""What runs the sources that a pipeline names."""
