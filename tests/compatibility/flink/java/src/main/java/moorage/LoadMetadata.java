package moorage;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.flink.runtime.checkpoint.Checkpoints;
import org.apache.flink.runtime.checkpoint.metadata.CheckpointMetadata;
import org.apache.flink.runtime.checkpoint.metadata.MetadataSerializers;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;

/** Loads metadata files with Flink's classes and prints what Flink makes of each, as one JSON object by file. */
public final class LoadMetadata {

    private LoadMetadata() {}

    public static void main(String[] files) throws IOException {
        Map<String, Object> loaded = new LinkedHashMap<>();
        for (String file : files) {
            loaded.put(file, load(Files.readAllBytes(Path.of(file)), Path.of(file).getParent().toUri().toString()));
        }
        System.out.println(new ObjectMapper().writeValueAsString(loaded));
    }

    /** A dump of the metadata, and whether Flink writes it with the same bytes; or why Flink can't load it. */
    static Map<String, Object> load(byte[] data, String folder) {
        Map<String, Object> result = new LinkedHashMap<>();
        try {
            CheckpointMetadata metadata =
                    Checkpoints.loadCheckpointMetadata(
                            new DataInputStream(new ByteArrayInputStream(data)),
                            LoadMetadata.class.getClassLoader(),
                            folder);
            int version = ByteBuffer.wrap(data).getInt(Integer.BYTES);
            result.put("metadata", Dump.of(version, metadata));
            result.put("sameBytes", version > 2 && Arrays.equals(data, store(metadata, version)));
        } catch (IOException | RuntimeException error) {
            result.put("error", error.toString());
        }
        return result;
    }

    static byte[] store(CheckpointMetadata metadata, int version) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        Checkpoints.storeCheckpointMetadata(
                metadata, new DataOutputStream(out), MetadataSerializers.getSerializer(version));
        return out.toByteArray();
    }
}
