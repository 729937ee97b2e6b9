"""The REST API: Flink's paths and JSON (see ``moorage_coordinator.flink``), served by a thread of its own.

A handler asks the coordinator's loop through the desk and waits for the answer; it never touches the core. A
coordinator that does not lead answers 503 and names the one that does. Errors have Flink's shape:
``{"errors": [...]}``. The document at ``/openapi.json`` is made of the same endpoints that are served.
"""

from moorage_coordinator.rest.app import create_app
from moorage_coordinator.rest.server import RestServer

__all__ = ["RestServer", "create_app"]
