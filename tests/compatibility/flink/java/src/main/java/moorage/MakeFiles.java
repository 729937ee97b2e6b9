package moorage;

import java.io.IOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.runtime.checkpoint.CheckpointProperties;
import org.apache.flink.runtime.checkpoint.CheckpointRetentionPolicy;
import org.apache.flink.runtime.checkpoint.CheckpointType;
import org.apache.flink.runtime.checkpoint.FinishedOperatorSubtaskState;
import org.apache.flink.runtime.checkpoint.FullyFinishedOperatorState;
import org.apache.flink.runtime.checkpoint.MasterState;
import org.apache.flink.runtime.checkpoint.OperatorState;
import org.apache.flink.runtime.checkpoint.OperatorSubtaskState;
import org.apache.flink.runtime.checkpoint.StateObjectCollection;
import org.apache.flink.runtime.checkpoint.channel.InputChannelInfo;
import org.apache.flink.runtime.checkpoint.channel.ResultSubpartitionInfo;
import org.apache.flink.runtime.checkpoint.filemerging.LogicalFile.LogicalFileId;
import org.apache.flink.runtime.checkpoint.metadata.CheckpointMetadata;
import org.apache.flink.runtime.jobgraph.OperatorID;
import org.apache.flink.runtime.state.CheckpointedStateScope;
import org.apache.flink.runtime.state.IncrementalKeyedStateHandle.HandleAndLocalPath;
import org.apache.flink.runtime.state.IncrementalRemoteKeyedStateHandle;
import org.apache.flink.runtime.state.InputChannelStateHandle;
import org.apache.flink.runtime.state.InputStateHandle;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyGroupRangeOffsets;
import org.apache.flink.runtime.state.KeyGroupsSavepointStateHandle;
import org.apache.flink.runtime.state.KeyGroupsStateHandle;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.MergedInputChannelStateHandle;
import org.apache.flink.runtime.state.MergedResultSubpartitionStateHandle;
import org.apache.flink.runtime.state.OperatorStateHandle;
import org.apache.flink.runtime.state.OperatorStateHandle.Mode;
import org.apache.flink.runtime.state.OperatorStateHandle.StateMetaInfo;
import org.apache.flink.runtime.state.OperatorStreamStateHandle;
import org.apache.flink.runtime.state.OutputStateHandle;
import org.apache.flink.runtime.state.ResultSubpartitionStateHandle;
import org.apache.flink.runtime.state.StateHandleID;
import org.apache.flink.runtime.state.StreamStateHandle;
import org.apache.flink.runtime.state.changelog.ChangelogStateBackendHandle.ChangelogStateBackendHandleImpl;
import org.apache.flink.runtime.state.changelog.ChangelogStateHandle;
import org.apache.flink.runtime.state.changelog.ChangelogStateHandleStreamImpl;
import org.apache.flink.runtime.state.changelog.SequenceNumber;
import org.apache.flink.runtime.state.changelog.StateChange;
import org.apache.flink.runtime.state.changelog.inmemory.InMemoryChangelogStateHandle;
import org.apache.flink.runtime.state.filemerging.DirectoryStreamStateHandle;
import org.apache.flink.runtime.state.filemerging.EmptyFileMergingOperatorStreamStateHandle;
import org.apache.flink.runtime.state.filemerging.FileMergingOperatorStreamStateHandle;
import org.apache.flink.runtime.state.filemerging.SegmentFileStateHandle;
import org.apache.flink.runtime.state.filesystem.FileStateHandle;
import org.apache.flink.runtime.state.filesystem.RelativeFileStateHandle;
import org.apache.flink.runtime.state.memory.ByteStreamStateHandle;

/**
 * Makes metadata files by hand out of every kind of handle that Flink has, in every version that it writes (3 to 6),
 * and one per type of snapshot.
 */
public final class MakeFiles {

    private static final CheckpointProperties RETAINED =
            CheckpointProperties.forCheckpoint(CheckpointRetentionPolicy.RETAIN_ON_CANCELLATION);

    private MakeFiles() {}

    public static void main(String[] args) throws IOException {
        Path golden = Path.of(args[0]);
        for (int version = 3; version <= 6; version++) {
            CheckpointMetadata metadata =
                    new CheckpointMetadata(40 + version, operators(version > 5), masterStates(), RETAINED);
            Golden.write(golden.resolve("handles-v" + version), version, metadata);
        }
        for (Map.Entry<String, CheckpointProperties> entry : properties().entrySet()) {
            CheckpointMetadata metadata = new CheckpointMetadata(1, List.of(), List.of(), entry.getValue());
            Golden.write(golden.resolve("properties-" + entry.getKey()), 4, metadata);
        }
    }

    private static Map<String, CheckpointProperties> properties() {
        Map<String, CheckpointProperties> all = new LinkedHashMap<>();
        for (CheckpointRetentionPolicy policy : CheckpointRetentionPolicy.values()) {
            all.put(policy.name().toLowerCase(), CheckpointProperties.forCheckpoint(policy));
        }
        all.put(
                "full_checkpoint",
                new CheckpointProperties(true, CheckpointType.FULL_CHECKPOINT, true, true, false, true, false, false));
        for (SavepointFormatType format : SavepointFormatType.values()) {
            String name = format.name().toLowerCase();
            all.put("savepoint_" + name, CheckpointProperties.forSavepoint(true, format));
            all.put("suspend_" + name, CheckpointProperties.forSyncSavepoint(false, false, format));
            all.put("terminate_" + name, CheckpointProperties.forSyncSavepoint(true, true, format));
        }
        all.put("unclaimed", CheckpointProperties.forUnclaimedSnapshot());
        return all;
    }

    private static List<MasterState> masterStates() {
        return List.of(
                new MasterState("hook", bytes("state of a hook"), 3),
                new MasterState("ein zweiter Häken \0 \uD83D\uDEA2", new byte[0], -1));
    }

    private static List<OperatorState> operators(boolean merged) {
        List<OperatorState> operators = new ArrayList<>();

        OperatorState keyed = new OperatorState("keyed \u20AC", "keyed-uid", new OperatorID(1, -2), 8, 128);
        keyed.setCoordinatorState(new ByteStreamStateHandle("coordinator", bytes("of an operator")));
        int subtask = 0;
        for (KeyedStateHandle handle : keyedHandles()) {
            OperatorSubtaskState.Builder state = OperatorSubtaskState.builder();
            keyed.putState(
                    subtask,
                    (subtask++ % 2 == 0 ? state.setManagedKeyedState(handle) : state.setRawKeyedState(handle)).build());
        }
        operators.add(keyed);

        OperatorState lists = new OperatorState(null, null, new OperatorID(0x0123456789abcdefL, 7), 5, 5);
        subtask = 4;
        for (OperatorStateHandle handle : operatorHandles()) {
            lists.putState(
                    subtask--,
                    OperatorSubtaskState.builder()
                            .setManagedOperatorState(handle)
                            .setRawOperatorState(handle)
                            .build());
        }
        operators.add(lists);

        OperatorState channels = new OperatorState("channels", null, new OperatorID(-1, -1), 3, 32768);
        channels.putState(
                0,
                OperatorSubtaskState.builder()
                        .setInputChannelState(new StateObjectCollection<>(inputs(merged)))
                        .setResultSubpartitionState(new StateObjectCollection<>(outputs(merged)))
                        .build());
        channels.putState(1, FinishedOperatorSubtaskState.INSTANCE);
        channels.putState(2, OperatorSubtaskState.builder().build());
        operators.add(channels);

        operators.add(new FullyFinishedOperatorState("finished", "done", new OperatorID(5, 6), 2, 128));
        operators.add(new OperatorState(null, "no-state", new OperatorID(8, 9), 1, 1));
        return operators;
    }

    private static List<KeyedStateHandle> keyedHandles() {
        KeyGroupRange range = KeyGroupRange.of(16, 18);
        KeyGroupRangeOffsets offsets = new KeyGroupRangeOffsets(range, new long[] {0, -1, 1L << 40});
        KeyGroupsStateHandle keyGroups =
                KeyGroupsStateHandle.restore(offsets, relative("a.state"), new StateHandleID("key-groups"));
        IncrementalRemoteKeyedStateHandle incremental =
                IncrementalRemoteKeyedStateHandle.restore(
                        UUID.nameUUIDFromBytes(bytes("backend")),
                        range,
                        17,
                        List.of(
                                HandleAndLocalPath.of(file("shared/1"), "000001.sst"),
                                HandleAndLocalPath.of(segment("shared/2", 100, CheckpointedStateScope.SHARED), "000002.sst")),
                        List.of(HandleAndLocalPath.of(new ByteStreamStateHandle("current", bytes("MANIFEST-4\n")), "CURRENT")),
                        relative("b.meta"),
                        4711,
                        new StateHandleID("incremental"));
        return List.of(
                keyGroups,
                new KeyGroupsSavepointStateHandle(offsets, new ByteStreamStateHandle("inline", new byte[] {0, 1, -1})),
                incremental,
                changelog(range, List.of(keyGroups, incremental), List.of(changesInBytes(range), changesInFiles(range))),
                changelog(range, List.of(), List.of()),
                KeyGroupsStateHandle.restore(
                        new KeyGroupRangeOffsets(KeyGroupRange.EMPTY_KEY_GROUP_RANGE),
                        segment("taskowned/3", 0, CheckpointedStateScope.EXCLUSIVE),
                        new StateHandleID("")));
    }

    private static ChangelogStateBackendHandleImpl changelog(
            KeyGroupRange range, List<KeyedStateHandle> materialized, List<ChangelogStateHandle> changes) {
        return ChangelogStateBackendHandleImpl.restore(
                materialized, changes, range, 18, 2, 815, new StateHandleID("changelog"));
    }

    private static ChangelogStateHandle changesInBytes(KeyGroupRange range) {
        return InMemoryChangelogStateHandle.restore(
                List.of(StateChange.ofMetadataChange(bytes("meta")), StateChange.ofDataChange(17, new byte[0])),
                SequenceNumber.of(3),
                SequenceNumber.of(5),
                range,
                new StateHandleID("changes in bytes"));
    }

    private static ChangelogStateHandle changesInFiles(KeyGroupRange range) {
        return ChangelogStateHandleStreamImpl.restore(
                List.of(Tuple2.of(file("dstl/1"), 12L), Tuple2.of(new ByteStreamStateHandle("dstl", bytes("x")), 0L)),
                range,
                1000,
                100,
                "filesystem",
                new StateHandleID("changes in files"));
    }

    private static List<OperatorStateHandle> operatorHandles() {
        Map<String, StateMetaInfo> states = new LinkedHashMap<>();
        states.put("split", new StateMetaInfo(new long[] {0, 10, 20}, Mode.SPLIT_DISTRIBUTE));
        states.put("union", new StateMetaInfo(new long[] {30}, Mode.UNION));
        states.put("broadcast", new StateMetaInfo(new long[0], Mode.BROADCAST));
        DirectoryStreamStateHandle taskOwned = directory("taskowned/job_tm");
        DirectoryStreamStateHandle shared = directory("shared/job_op_0_1");
        return List.of(
                new OperatorStreamStateHandle(states, file("op")),
                new OperatorStreamStateHandle(Map.of(), new ByteStreamStateHandle("", new byte[0])),
                new FileMergingOperatorStreamStateHandle(
                        taskOwned, shared, states, segment("taskowned/4", 77, CheckpointedStateScope.EXCLUSIVE)),
                EmptyFileMergingOperatorStreamStateHandle.create(taskOwned, shared));
    }

    private static Collection<InputStateHandle> inputs(boolean merged) {
        StreamStateHandle stream = relative("channels");
        InputChannelStateHandle first =
                new InputChannelStateHandle(0, new InputChannelInfo(1, 2), stream, List.of(0L, 100L), 150);
        InputChannelStateHandle second =
                new InputChannelStateHandle(0, new InputChannelInfo(1, 3), stream, List.of(150L), 30);
        return merged
                ? List.of(first, MergedInputChannelStateHandle.fromChannelHandles(List.of(first, second)))
                : List.of(first, second);
    }

    private static Collection<OutputStateHandle> outputs(boolean merged) {
        StreamStateHandle stream = relative("channels");
        ResultSubpartitionStateHandle first =
                new ResultSubpartitionStateHandle(0, new ResultSubpartitionInfo(0, 5), stream, List.of(180L), 1);
        ResultSubpartitionStateHandle second =
                new ResultSubpartitionStateHandle(0, new ResultSubpartitionInfo(0, 6), stream, List.of(), 0);
        return merged
                ? List.of(first, MergedResultSubpartitionStateHandle.fromChannelHandles(List.of(first, second)))
                : List.of(first, second);
    }

    private static FileStateHandle file(String name) {
        return new FileStateHandle(path(name), 1234);
    }

    private static RelativeFileStateHandle relative(String name) {
        return new RelativeFileStateHandle(path("chk-1/" + name), name, 99);
    }

    private static SegmentFileStateHandle segment(String name, long start, CheckpointedStateScope scope) {
        return new SegmentFileStateHandle(path(name), start, 55, scope, new LogicalFileId("logical of " + name));
    }

    private static DirectoryStreamStateHandle directory(String name) {
        return DirectoryStreamStateHandle.of(path(name));
    }

    private static org.apache.flink.core.fs.Path path(String name) {
        return new org.apache.flink.core.fs.Path(URI.create("s3://bucket/checkpoints/job/" + name));
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
