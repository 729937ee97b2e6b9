package moorage;

import java.io.IOException;
import java.nio.file.Path;

/** Writes beside metadata files of older versions of Flink what the present one reads from them. */
public final class Describe {

    private Describe() {}

    public static void main(String[] folders) throws IOException {
        for (String folder : folders) {
            Golden.describe(Path.of(folder));
        }
    }
}
