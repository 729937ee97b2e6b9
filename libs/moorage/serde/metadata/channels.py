"""State of channels of an unaligned checkpoint (Flink: ChannelStateHandleSerializerV1 and V2).

The second form is the first with a type before it, and knows handles that stand for all channels of a subtask.
"""

from __future__ import annotations

from enum import IntEnum

from moorage.errors import MetadataError
from moorage.serde.metadata.binary import INT_BYTES, LONG_BYTES, Reader, Writer
from moorage.serde.metadata.streams import STREAM_BYTES, read_stream, write_stream
from moorage.state.handles import (
    ChannelContent,
    InputChannelHandle,
    InputHandle,
    MergedInputChannelHandle,
    MergedResultSubpartitionHandle,
    OutputHandle,
    ResultSubpartitionHandle,
)

_LEAST_BYTES = INT_BYTES + LONG_BYTES + STREAM_BYTES
_CONTENT_BYTES = 3 * INT_BYTES + LONG_BYTES


class _Type(IntEnum):
    INPUT = 1
    OUTPUT = 2
    MERGED_INPUT = 3
    MERGED_OUTPUT = 4


def read_inputs(reader: Reader, *, typed: bool) -> tuple[InputHandle, ...]:
    """``typed``: in the form of ChannelStateHandleSerializerV2."""
    return tuple(_read_input(reader, typed) for _ in range(reader.count("input channel handles", _LEAST_BYTES)))


def read_outputs(reader: Reader, *, typed: bool) -> tuple[OutputHandle, ...]:
    return tuple(_read_output(reader, typed) for _ in range(reader.count("result subpartition handles", _LEAST_BYTES)))


def _read_input(reader: Reader, typed: bool) -> InputHandle:
    match reader.byte("type of an input channel handle") if typed else _Type.INPUT:
        case _Type.INPUT:
            return InputChannelHandle(
                subtask=reader.index("subtask of an input channel"),
                gate=reader.index("input gate"),
                channel=reader.index("input channel"),
                offsets=reader.int64s("offsets of an input channel"),
                size_bytes=reader.size("size of an input channel"),
                stream=read_stream(reader),
            )
        case _Type.MERGED_INPUT:
            subtask, size_bytes = reader.index("subtask of input channels"), reader.size("size of input channels")
            stream = read_stream(reader)
            return MergedInputChannelHandle(subtask, _read_contents(reader), size_bytes, stream)
        case code:
            raise reader.corrupt(f"input channel handle of type {code}")


def _read_output(reader: Reader, typed: bool) -> OutputHandle:
    match reader.byte("type of a result subpartition handle") if typed else _Type.OUTPUT:
        case _Type.OUTPUT:
            return ResultSubpartitionHandle(
                subtask=reader.index("subtask of a result subpartition"),
                partition=reader.index("result partition"),
                subpartition=reader.index("result subpartition"),
                offsets=reader.int64s("offsets of a result subpartition"),
                size_bytes=reader.size("size of a result subpartition"),
                stream=read_stream(reader),
            )
        case _Type.MERGED_OUTPUT:
            subtask, size_bytes = reader.index("subtask of subpartitions"), reader.size("size of subpartitions")
            stream = read_stream(reader)
            return MergedResultSubpartitionHandle(subtask, _read_contents(reader), size_bytes, stream)
        case code:
            raise reader.corrupt(f"result subpartition handle of type {code}")


def write_channels(writer: Writer, handles: tuple[InputHandle, ...] | tuple[OutputHandle, ...], *, typed: bool) -> None:
    writer.int32(len(handles))
    for handle in handles:
        match handle:
            case InputChannelHandle():
                if typed:
                    writer.byte(_Type.INPUT)
                _write_channel(writer, handle, handle.gate, handle.channel)
            case ResultSubpartitionHandle():
                if typed:
                    writer.byte(_Type.OUTPUT)
                _write_channel(writer, handle, handle.partition, handle.subpartition)
            case _ if not typed:
                raise MetadataError(f"a {type(handle).__name__} needs metadata version 6")
            case MergedInputChannelHandle():
                writer.byte(_Type.MERGED_INPUT)
                _write_merged(writer, handle)
            case MergedResultSubpartitionHandle():
                writer.byte(_Type.MERGED_OUTPUT)
                _write_merged(writer, handle)


def _write_channel(
    writer: Writer, handle: InputChannelHandle | ResultSubpartitionHandle, group: int, channel: int
) -> None:
    writer.index(handle.subtask)
    writer.index(group)
    writer.index(channel)
    writer.int64s(handle.offsets)
    writer.size(handle.size_bytes)
    write_stream(writer, handle.stream)


def _write_merged(writer: Writer, handle: MergedInputChannelHandle | MergedResultSubpartitionHandle) -> None:
    writer.index(handle.subtask)
    writer.size(handle.size_bytes)
    write_stream(writer, handle.stream)
    contents = Writer()
    contents.int32(len(handle.channels))
    for content in handle.channels:
        contents.index(content.group)
        contents.index(content.channel)
        contents.size(content.size_bytes)
        contents.int64s(content.offsets)
    writer.data(contents.getvalue())


def _read_contents(reader: Reader) -> tuple[ChannelContent, ...]:
    contents = Reader(reader.data("contents of merged channels"))
    channels = []
    for _ in range(contents.count("merged channels", _CONTENT_BYTES)):
        group, channel = contents.index("gate or partition"), contents.index("channel or subpartition")
        size_bytes = contents.size("size of a merged channel")
        channels.append(ChannelContent(group, channel, contents.int64s("offsets of a merged channel"), size_bytes))
    contents.end()
    return tuple(channels)
