"""Moorage: exactly-once stream processing on Kafka.

::

    import moorage as mo
"""

from moorage.api.connectors import KafkaSink, KafkaSource
from moorage.api.formats import Format, Json, Raw, Text
from moorage.api.functions import CheckpointedFunction, OperatorListState
from moorage.api.keyed_state import KeyedContext, KeyedState
from moorage.api.pipeline import Broadcast, KeyedStream, Pipeline, Stream
from moorage.api.state import ListState, MapState, ReducingState, Ttl, ValueState
from moorage.errors import MoorageError, PipelineError
from moorage.graph.job_graph import CheckpointConfig, RestartConfig, StateConfig
from moorage.inspect import read_state

__version__ = "0.1.0"

__all__ = [
    "Broadcast",
    "CheckpointConfig",
    "CheckpointedFunction",
    "Format",
    "Json",
    "KafkaSink",
    "KafkaSource",
    "KeyedContext",
    "KeyedState",
    "KeyedStream",
    "ListState",
    "MapState",
    "MoorageError",
    "OperatorListState",
    "Pipeline",
    "PipelineError",
    "Raw",
    "ReducingState",
    "RestartConfig",
    "StateConfig",
    "Stream",
    "Text",
    "Ttl",
    "ValueState",
    "read_state",
]
