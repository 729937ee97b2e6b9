package moorage;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.flink.runtime.checkpoint.Checkpoints;
import org.apache.flink.runtime.checkpoint.MasterState;
import org.apache.flink.runtime.checkpoint.OperatorState;
import org.apache.flink.runtime.checkpoint.OperatorSubtaskState;
import org.apache.flink.runtime.checkpoint.savepoint.SavepointV2;
import org.apache.flink.runtime.jobgraph.OperatorID;
import org.apache.flink.runtime.state.IncrementalRemoteKeyedStateHandle;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyGroupRangeOffsets;
import org.apache.flink.runtime.state.KeyGroupsStateHandle;
import org.apache.flink.runtime.state.OperatorStateHandle;
import org.apache.flink.runtime.state.OperatorStateHandle.Mode;
import org.apache.flink.runtime.state.OperatorStateHandle.StateMetaInfo;
import org.apache.flink.runtime.state.OperatorStreamStateHandle;
import org.apache.flink.runtime.state.StateHandleID;
import org.apache.flink.runtime.state.StreamStateHandle;
import org.apache.flink.runtime.state.filesystem.FileStateHandle;
import org.apache.flink.runtime.state.memory.ByteStreamStateHandle;

/** Makes a metadata file of version 2. */
public final class MakeFile {

    private MakeFile() {}

    public static void main(String[] args) throws IOException {
        Map<String, StateMetaInfo> states = new LinkedHashMap<>();
        states.put("split", new StateMetaInfo(new long[] {0, 9}, Mode.SPLIT_DISTRIBUTE));
        states.put("union", new StateMetaInfo(new long[] {18}, Mode.UNION));
        StreamStateHandle bytes = new ByteStreamStateHandle("bytes", "state".getBytes(StandardCharsets.UTF_8));
        StreamStateHandle file = new FileStateHandle(new org.apache.flink.core.fs.Path("hdfs://host/state"), 321);
        KeyGroupRange range = KeyGroupRange.of(64, 65);
        KeyGroupsStateHandle keyGroups =
                new KeyGroupsStateHandle(new KeyGroupRangeOffsets(range, new long[] {7, 8}), file);
        OperatorStateHandle operator = new OperatorStreamStateHandle(states, file);
        IncrementalRemoteKeyedStateHandle incremental =
                new IncrementalRemoteKeyedStateHandle(
                        UUID.nameUUIDFromBytes(new byte[] {1}),
                        range,
                        5,
                        Map.of(new StateHandleID("000007.sst"), file),
                        Map.of(new StateHandleID("CURRENT"), bytes),
                        bytes);

        OperatorState state = new OperatorState(new OperatorID(-1, 2), 4, 128);
        state.putState(0, new OperatorSubtaskState(operator, null, keyGroups, null));
        state.putState(2, new OperatorSubtaskState(null, operator, incremental, keyGroups));
        state.putState(3, new OperatorSubtaskState());
        SavepointV2 savepoint =
                new SavepointV2(12, List.of(state), List.of(new MasterState("hook", new byte[] {4, 5}, 1)));
        Path target = Path.of(args[0]);
        Files.createDirectories(target.getParent());
        try (OutputStream out = Files.newOutputStream(target)) {
            Checkpoints.storeCheckpointMetadata(savepoint, out);
        }
    }
}
