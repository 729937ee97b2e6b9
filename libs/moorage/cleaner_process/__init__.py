"""The cleaner at work: reads the facts through the ports, lets ``moorage.cleaner`` judge, carries out what it says.

``CleanerProcess`` is what both the service and the simulation run. ``calls`` holds what blocks. ``preview`` is for
people who want to see what would go.
"""
