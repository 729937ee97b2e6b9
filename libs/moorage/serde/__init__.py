"""Bytes: control messages, frames, state segments, checkpoint metadata. No files, no sockets."""
