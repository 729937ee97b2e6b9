"""Flink's JSON: our views in the shapes of Flink 2.2's REST API, one module per resource.

Each shape is a type, so the OpenAPI document that is served is made of the same thing as the answers. What Flink has
and Moorage can fill holds true values. What it can't fill is 0, -1, empty or null, as in Flink itself where a value is
not known; docs/parity.md lists those. Times are ms since 1970, durations ms, sizes bytes. A job's id is its name, a
vertex's id the uid of its first operator.
"""
