"""The coordinator service: settings, wiring, loop, REST, metrics. It decides nothing; see ``moorage.cluster``."""
