package moorage;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.runtime.checkpoint.metadata.CheckpointMetadata;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;

/** A golden file: a folder with a metadata file and what Flink itself reads from it. */
final class Golden {

    private Golden() {}

    static void write(Path folder, int version, CheckpointMetadata metadata) throws IOException {
        write(folder, LoadMetadata.store(metadata, version));
    }

    static void write(Path folder, byte[] data) throws IOException {
        Files.createDirectories(folder);
        Files.write(folder.resolve("_metadata"), data);
        describe(folder);
    }

    /** Writes {@code flink.json} beside a metadata file. */
    static void describe(Path folder) throws IOException {
        byte[] data = Files.readAllBytes(folder.resolve("_metadata"));
        new ObjectMapper()
                .writerWithDefaultPrettyPrinter()
                .writeValue(
                        folder.resolve("flink.json").toFile(),
                        LoadMetadata.load(data, folder.toUri().toString()).get("metadata"));
    }
}
