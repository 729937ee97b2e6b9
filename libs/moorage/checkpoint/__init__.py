"""Checkpoint coordination, pure: ``coordinator`` is the hub of one job, every decision has a module of its own.

``decider``: when is one triggered; ``pending``: who has acknowledged; ``completed``: what is retained; ``fates``: what
became of each; ``sink_commits``: how far the sinks are; ``failure_manager``: when is it too much; ``stats`` and
``notices``: for people.
"""
