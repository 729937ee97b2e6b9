"""The command line of Moorage, and the embedded stack that `moorage dev` and the tests start."""
