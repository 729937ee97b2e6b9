"""Checkpoint coordination, pure: ``coordinator`` is the hub of one job, every decision has a module of its own.

``decider``: when is one triggered; ``options``: what is asked for; ``asking``: who is asked, in which order;
``pending``: who has acknowledged; ``completion``: from the last acknowledgement to the registry's word; ``completed``:
what is retained; ``discards``: what nobody needs; ``fates``: what became of each; ``sink_commits``: how far the sinks
are; ``failure_manager``: when is it too much; ``rebuild``: what an emptied registry must know again; ``stats`` and
``notices``: for people.

``operator_coordinators`` and ``hooks`` are public: others write them.
"""
