package moorage;

import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.stream.LongStream;
import org.apache.flink.runtime.checkpoint.CheckpointProperties;
import org.apache.flink.runtime.checkpoint.MasterState;
import org.apache.flink.runtime.checkpoint.OperatorState;
import org.apache.flink.runtime.checkpoint.OperatorSubtaskState;
import org.apache.flink.runtime.checkpoint.metadata.CheckpointMetadata;
import org.apache.flink.runtime.state.AbstractChannelStateHandle;
import org.apache.flink.runtime.state.AbstractMergedChannelStateHandle;
import org.apache.flink.runtime.state.IncrementalKeyedStateHandle.HandleAndLocalPath;
import org.apache.flink.runtime.state.IncrementalRemoteKeyedStateHandle;
import org.apache.flink.runtime.state.InputChannelStateHandle;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyGroupsSavepointStateHandle;
import org.apache.flink.runtime.state.KeyGroupsStateHandle;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.OperatorStateHandle;
import org.apache.flink.runtime.state.ResultSubpartitionStateHandle;
import org.apache.flink.runtime.state.StreamStateHandle;
import org.apache.flink.runtime.state.changelog.ChangelogStateBackendHandle;
import org.apache.flink.runtime.state.changelog.ChangelogStateHandleStreamImpl;
import org.apache.flink.runtime.state.changelog.inmemory.InMemoryChangelogStateHandle;
import org.apache.flink.runtime.state.filemerging.EmptySegmentFileStateHandle;
import org.apache.flink.runtime.state.filemerging.FileMergingOperatorStreamStateHandle;
import org.apache.flink.runtime.state.filemerging.SegmentFileStateHandle;
import org.apache.flink.runtime.state.filesystem.FileStateHandle;
import org.apache.flink.runtime.state.filesystem.RelativeFileStateHandle;
import org.apache.flink.runtime.state.memory.ByteStreamStateHandle;

/** Everything that Flink's classes know of a checkpoint, as maps and lists. */
final class Dump {

    private Dump() {}

    static Map<String, Object> of(int version, CheckpointMetadata metadata) {
        return fields(
                "version", version,
                "checkpointId", metadata.getCheckpointId(),
                "masterStates", all(metadata.getMasterStates(), Dump::masterState),
                "operatorStates", all(metadata.getOperatorStates(), Dump::operatorState),
                "properties", properties(metadata.getCheckpointProperties()));
    }

    private static Object masterState(MasterState state) {
        return fields("name", state.name(), "version", state.version(), "bytes", hex(state.bytes()));
    }

    /** CheckpointProperties has no public getters for most of its fields, but its text has them. */
    private static Object properties(CheckpointProperties properties) {
        return properties == null
                ? null
                : fields("text", properties.toString(), "unclaimed", properties.isUnclaimed());
    }

    private static Object operatorState(OperatorState state) {
        Map<String, Object> subtasks = new LinkedHashMap<>();
        state.getSubtaskStates().forEach((index, subtask) -> subtasks.put(index.toString(), subtaskState(subtask)));
        return fields(
                "operatorId", state.getOperatorID().toString(),
                "name", state.getOperatorName().orElse(null),
                "uid", state.getOperatorUid().orElse(null),
                "parallelism", state.getParallelism(),
                "maxParallelism", state.getMaxParallelism(),
                "fullyFinished", state.isFullyFinished(),
                "coordinatorState", stream(state.getCoordinatorState()),
                "subtasks", subtasks);
    }

    private static Object subtaskState(OperatorSubtaskState state) {
        return fields(
                "finished", state.isFinished(),
                "managedOperatorState", all(state.getManagedOperatorState(), Dump::operatorHandle),
                "rawOperatorState", all(state.getRawOperatorState(), Dump::operatorHandle),
                "managedKeyedState", all(state.getManagedKeyedState(), Dump::keyedHandle),
                "rawKeyedState", all(state.getRawKeyedState(), Dump::keyedHandle),
                "inputChannelState", all(state.getInputChannelState(), Dump::channelHandle),
                "resultSubpartitionState", all(state.getResultSubpartitionState(), Dump::channelHandle));
    }

    private static Object operatorHandle(OperatorStateHandle handle) {
        Map<String, Object> states = new LinkedHashMap<>();
        handle.getStateNameToPartitionOffsets()
                .forEach(
                        (name, info) ->
                                states.put(
                                        name,
                                        fields(
                                                "mode", info.getDistributionMode().name(),
                                                "offsets", longs(info.getOffsets()))));
        Map<String, Object> result =
                typed(handle, "states", states, "stream", stream(handle.getDelegateStateHandle()));
        if (handle instanceof FileMergingOperatorStreamStateHandle merged) {
            result.put("taskOwnedFolder", merged.getTaskOwnedDirHandle().getDirectory().toString());
            result.put("sharedFolder", merged.getSharedDirHandle().getDirectory().toString());
        }
        return result;
    }

    private static Object keyedHandle(KeyedStateHandle handle) {
        if (handle instanceof KeyGroupsStateHandle keyGroups) {
            KeyGroupRange range = keyGroups.getKeyGroupRange();
            List<Long> offsets = new ArrayList<>();
            range.forEach(keyGroup -> offsets.add(keyGroups.getOffsetForKeyGroup(keyGroup)));
            return typed(
                    handle,
                    "keyGroups", range(range),
                    "offsets", offsets,
                    "stream", stream(keyGroups.getDelegateStateHandle()),
                    // A savepoint handle gets a random id whenever it is read.
                    "id", handle instanceof KeyGroupsSavepointStateHandle ? null : id(handle));
        } else if (handle instanceof IncrementalRemoteKeyedStateHandle incremental) {
            return typed(
                    handle,
                    "backend", incremental.getBackendIdentifier().toString(),
                    "checkpoint", incremental.getCheckpointId(),
                    "keyGroups", range(incremental.getKeyGroupRange()),
                    "shared", all(incremental.getSharedState(), Dump::file),
                    "private", all(incremental.getPrivateState(), Dump::file),
                    "metadata", stream(incremental.getMetaDataStateHandle()),
                    "checkpointedSize", incremental.getCheckpointedSize(),
                    "id", id(handle));
        } else if (handle instanceof ChangelogStateBackendHandle changelog) {
            return typed(
                    handle,
                    "keyGroups", range(changelog.getKeyGroupRange()),
                    "materialized", all(changelog.getMaterializedStateHandles(), Dump::keyedHandle),
                    "changes", all(changelog.getNonMaterializedStateHandles(), Dump::keyedHandle),
                    "materialization", changelog.getMaterializationID(),
                    "checkpoint", changelog.getCheckpointId(),
                    "checkpointedSize", changelog.getCheckpointedSize(),
                    "id", id(handle));
        } else if (handle instanceof InMemoryChangelogStateHandle bytes) {
            return typed(
                    handle,
                    "keyGroups", range(bytes.getKeyGroupRange()),
                    "from", bytes.getFrom(),
                    "to", bytes.getTo(),
                    "changes",
                            all(
                                    bytes.getChanges(),
                                    change -> fields("keyGroup", change.getKeyGroup(), "bytes", hex(change.getChange()))),
                    "id", id(handle));
        } else if (handle instanceof ChangelogStateHandleStreamImpl files) {
            return typed(
                    handle,
                    "keyGroups", range(files.getKeyGroupRange()),
                    "streams",
                            all(
                                    files.getHandlesAndOffsets(),
                                    place -> fields("stream", stream(place.f0), "offset", place.f1)),
                    "size", files.getStateSize(),
                    "checkpointedSize", files.getCheckpointedSize(),
                    "storage", files.getStorageIdentifier(),
                    "id", id(handle));
        }
        throw new IllegalArgumentException("no dump of " + handle.getClass());
    }

    private static Object channelHandle(Object handle) {
        if (handle instanceof AbstractMergedChannelStateHandle<?, ?> merged) {
            return typed(
                    handle,
                    "subtask", merged.getSubtaskIndex(),
                    "size", merged.getStateSize(),
                    "stream", stream(merged.getDelegate()),
                    "channels", all(unmerged(merged), Dump::channelHandle));
        }
        AbstractChannelStateHandle<?> channel = (AbstractChannelStateHandle<?>) handle;
        Map<String, Object> result =
                typed(
                        handle,
                        "subtask", channel.getSubtaskIndex(),
                        "offsets", channel.getOffsets(),
                        "size", channel.getStateSize(),
                        "stream", stream(channel.getDelegate()));
        if (handle instanceof InputChannelStateHandle input) {
            result.put("group", input.getInfo().getGateIdx());
            result.put("channel", input.getInfo().getInputChannelIdx());
        } else if (handle instanceof ResultSubpartitionStateHandle output) {
            result.put("group", output.getInfo().getPartitionIdx());
            result.put("channel", output.getInfo().getSubPartitionIdx());
        }
        return result;
    }

    private static Collection<?> unmerged(AbstractMergedChannelStateHandle<?, ?> handle) {
        try {
            Method method = AbstractMergedChannelStateHandle.class.getDeclaredMethod("getUnmergedHandles");
            method.setAccessible(true);
            return (Collection<?>) method.invoke(handle);
        } catch (ReflectiveOperationException error) {
            throw new IllegalStateException(error);
        }
    }

    private static Object stream(StreamStateHandle handle) {
        if (handle == null) {
            return null;
        } else if (handle instanceof EmptySegmentFileStateHandle) {
            return typed(handle);
        } else if (handle instanceof SegmentFileStateHandle segment) {
            return typed(
                    handle,
                    "path", segment.getFilePath().toString(),
                    "offset", segment.getStartPos(),
                    "size", segment.getStateSize(),
                    "scope", segment.getScope().name(),
                    "logicalFile", segment.getLogicalFileId().getKeyString());
        } else if (handle instanceof RelativeFileStateHandle file) {
            return typed(
                    handle,
                    "relativePath", file.getRelativePath(),
                    "size", file.getStateSize());
        } else if (handle instanceof FileStateHandle file) {
            return typed(handle, "path", file.getFilePath().toString(), "size", file.getStateSize());
        } else if (handle instanceof ByteStreamStateHandle bytes) {
            return typed(handle, "name", bytes.getHandleName(), "bytes", hex(bytes.getData()));
        }
        throw new IllegalArgumentException("no dump of " + handle.getClass());
    }

    private static Object file(HandleAndLocalPath file) {
        return fields("localPath", file.getLocalPath(), "stream", stream(file.getHandle()));
    }

    private static String id(KeyedStateHandle handle) {
        return handle.getStateHandleId().getKeyString();
    }

    private static List<Integer> range(KeyGroupRange range) {
        return List.of(range.getStartKeyGroup(), range.getEndKeyGroup());
    }

    private static List<Long> longs(long[] values) {
        return LongStream.of(values).boxed().toList();
    }

    private static String hex(byte[] bytes) {
        return HexFormat.of().formatHex(bytes);
    }

    private static <T> List<Object> all(Collection<? extends T> things, Function<T, Object> dump) {
        List<Object> result = new ArrayList<>();
        for (T thing : things) {
            result.add(dump.apply(thing));
        }
        return result;
    }

    private static Map<String, Object> typed(Object thing, Object... namesAndValues) {
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("type", thing.getClass().getSimpleName());
        result.putAll(fields(namesAndValues));
        return result;
    }

    private static Map<String, Object> fields(Object... namesAndValues) {
        Map<String, Object> result = new LinkedHashMap<>();
        for (int i = 0; i < namesAndValues.length; i += 2) {
            result.put((String) namesAndValues[i], namesAndValues[i + 1]);
        }
        return result;
    }
}
