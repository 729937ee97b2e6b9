"""The coordinator's shell, the same in production and in the simulation: carries the core's actions out on the ports.

``process.CoordinatorProcess`` is the loop, ``calls`` are the blocking operations, ``broadcaster`` gets commands out in
order through every outage, ``origin`` is what a checkpoint's file says of where it comes from.
"""
