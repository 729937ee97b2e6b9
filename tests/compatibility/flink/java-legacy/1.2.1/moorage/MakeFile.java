package moorage;

import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.flink.runtime.checkpoint.SubtaskState;
import org.apache.flink.runtime.checkpoint.TaskState;
import org.apache.flink.runtime.checkpoint.savepoint.SavepointSerializers;
import org.apache.flink.runtime.checkpoint.savepoint.SavepointStore;
import org.apache.flink.runtime.checkpoint.savepoint.SavepointV1;
import org.apache.flink.runtime.jobgraph.JobVertexID;
import org.apache.flink.runtime.state.ChainedStateHandle;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyGroupRangeOffsets;
import org.apache.flink.runtime.state.KeyGroupsStateHandle;
import org.apache.flink.runtime.state.OperatorStateHandle;
import org.apache.flink.runtime.state.OperatorStateHandle.Mode;
import org.apache.flink.runtime.state.OperatorStateHandle.StateMetaInfo;
import org.apache.flink.runtime.state.StreamStateHandle;
import org.apache.flink.runtime.state.filesystem.FileStateHandle;
import org.apache.flink.runtime.state.memory.ByteStreamStateHandle;

/** Makes a metadata file of version 1: the chain of three operators, of which the second has no operator state. */
public final class MakeFile {

    private MakeFile() {}

    public static void main(String[] args) throws IOException {
        TaskState task = new TaskState(new JobVertexID(1, -2), 2, 128, 3);
        task.putState(1, subtask(true));
        TaskState sink = new TaskState(new JobVertexID(3, 4), 1, 128, 1);
        sink.putState(0, subtask(false));
        SavepointV1 savepoint = new SavepointV1(12, List.of(task, sink));
        Path file = Path.of(args[0]);
        Files.createDirectories(file.getParent());
        try (DataOutputStream out = new DataOutputStream(Files.newOutputStream(file))) {
            out.writeInt(SavepointStore.MAGIC_NUMBER);
            out.writeInt(savepoint.getVersion());
            SavepointSerializers.getSerializer(savepoint).serialize(savepoint, out);
        }
    }

    private static SubtaskState subtask(boolean full) {
        Map<String, StateMetaInfo> states = new LinkedHashMap<>();
        states.put("split", new StateMetaInfo(new long[] {0, 9}, Mode.SPLIT_DISTRIBUTE));
        states.put("broadcast", new StateMetaInfo(new long[] {18}, Mode.BROADCAST));
        StreamStateHandle bytes = new ByteStreamStateHandle("bytes", "state".getBytes(StandardCharsets.UTF_8));
        StreamStateHandle file = new FileStateHandle(new org.apache.flink.core.fs.Path("hdfs://host/state"), 321);
        KeyGroupRangeOffsets offsets = new KeyGroupRangeOffsets(KeyGroupRange.of(64, 65), new long[] {7, 8});
        OperatorStateHandle inFile = new OperatorStateHandle(states, file);
        OperatorStateHandle inBytes = new OperatorStateHandle(Map.of(), bytes);
        return full
                ? new SubtaskState(
                        chain((StreamStateHandle) null, null, null),
                        chain(inFile, null, inBytes),
                        chain(null, null, inFile),
                        new KeyGroupsStateHandle(offsets, file),
                        new KeyGroupsStateHandle(offsets, bytes))
                : new SubtaskState(chain(), chain(inFile), chain(), null, null);
    }

    @SafeVarargs
    private static <T extends org.apache.flink.runtime.state.StateObject> ChainedStateHandle<T> chain(T... handles) {
        return new ChainedStateHandle<>(Arrays.asList(handles));
    }
}
