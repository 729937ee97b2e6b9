"""The cluster as the coordinator sees it, pure: leadership, workers, slots, and the life of each job.

``coordinator.CoordinatorCore`` composes everything: ``handle(event) -> actions``. ``protocol`` names what goes in and
what comes out.
"""
