"""Twins of everything outside the cores: shipped, so that users test their pipelines on what we test ours.

They keep the ports' contracts (``tests/contract`` runs on them and on the real things), use no threads, no real time
and no randomness, and take failures as data.
"""
