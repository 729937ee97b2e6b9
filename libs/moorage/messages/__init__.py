"""What is said between the services, as frozen structs that mirror the Avro records in ``schemas/``.

``commands``: coordinator to all workers. ``events``: workers to coordinator. ``progress``: workers to workers.
``cleanup``: coordinator to cleaner. ``barriers``: inline with records. ``registry``: what the registry stores.
Bytes on the wire are the business of ``moorage.serde.control``.
"""
