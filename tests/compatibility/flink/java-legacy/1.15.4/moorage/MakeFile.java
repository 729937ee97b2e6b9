package moorage;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.runtime.checkpoint.Checkpoints;
import org.apache.flink.runtime.checkpoint.OperatorState;
import org.apache.flink.runtime.checkpoint.OperatorSubtaskState;
import org.apache.flink.runtime.checkpoint.metadata.CheckpointMetadata;
import org.apache.flink.runtime.jobgraph.OperatorID;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyGroupRangeOffsets;
import org.apache.flink.runtime.state.KeyGroupsStateHandle;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.StateHandleID;
import org.apache.flink.runtime.state.StreamStateHandle;
import org.apache.flink.runtime.state.changelog.ChangelogStateBackendHandle.ChangelogStateBackendHandleImpl;
import org.apache.flink.runtime.state.changelog.ChangelogStateHandle;
import org.apache.flink.runtime.state.changelog.ChangelogStateHandleStreamImpl;
import org.apache.flink.runtime.state.changelog.SequenceNumber;
import org.apache.flink.runtime.state.changelog.StateChange;
import org.apache.flink.runtime.state.changelog.inmemory.InMemoryChangelogStateHandle;
import org.apache.flink.runtime.state.filesystem.FileStateHandle;

/** Makes a metadata file of version 3 with a changelog, whose handles were shorter than they are now. */
public final class MakeFile {

    private MakeFile() {}

    public static void main(String[] args) throws IOException {
        KeyGroupRange range = KeyGroupRange.of(0, 1);
        StreamStateHandle file = new FileStateHandle(new org.apache.flink.core.fs.Path("hdfs://host/state"), 321);
        KeyedStateHandle materialized =
                new KeyGroupsStateHandle(new KeyGroupRangeOffsets(range, new long[] {7, 8}), file);
        List<ChangelogStateHandle> changes =
                List.of(
                        ChangelogStateHandleStreamImpl.restore(
                                List.of(Tuple2.of(file, 5L)), range, 20, 10, new StateHandleID("files")),
                        InMemoryChangelogStateHandle.restore(
                                List.of(new StateChange(1, new byte[] {9})),
                                SequenceNumber.of(0),
                                SequenceNumber.of(1),
                                range,
                                new StateHandleID("bytes")));
        KeyedStateHandle changelog =
                ChangelogStateBackendHandleImpl.restore(
                        List.of(materialized), changes, range, 3, 44, new StateHandleID("changelog"));
        OperatorState state = new OperatorState(new OperatorID(-1, 2), 1, 2);
        state.putState(0, OperatorSubtaskState.builder().setManagedKeyedState(changelog).build());
        CheckpointMetadata metadata = new CheckpointMetadata(7, List.of(state), List.of());
        Path target = Path.of(args[0]);
        Files.createDirectories(target.getParent());
        try (OutputStream out = Files.newOutputStream(target)) {
            Checkpoints.storeCheckpointMetadata(metadata, out);
        }
    }
}
