package moorage;

import java.io.IOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import org.apache.flink.api.common.JobID;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichMapFunction;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.connector.source.util.ratelimit.RateLimiterStrategy;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.datagen.source.DataGeneratorSource;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.core.io.SimpleVersionedSerializer;
import org.apache.flink.runtime.checkpoint.MasterTriggerRestoreHook;
import org.apache.flink.runtime.jobgraph.JobGraph;
import org.apache.flink.runtime.minicluster.MiniCluster;
import org.apache.flink.runtime.minicluster.MiniClusterConfiguration;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.checkpoint.WithMasterCheckpointHook;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.functions.source.legacy.SourceFunction;
import org.apache.flink.util.Collector;

/**
 * Runs jobs on a mini cluster and keeps the metadata of their checkpoints and savepoints. The jobs have a source with a
 * coordinator, keyed state with timers, list, union and broadcast state; some have a master hook or a finished source.
 */
public final class RunJobs {

    private static final Map<String, String> ROCKSDB_INCREMENTAL =
            Map.of(
                    "state.backend.type", "rocksdb",
                    "execution.checkpointing.incremental", "true",
                    // So that timers are raw keyed state.
                    "state.backend.rocksdb.timer-service.factory", "HEAP");

    private final Path golden;
    private final Path work;

    private RunJobs(Path golden, Path work) {
        this.golden = golden;
        this.work = work;
    }

    public static void main(String[] args) throws Exception {
        RunJobs jobs = new RunJobs(Path.of(args[0]), Path.of(args[1]));
        jobs.checkpoint("job-heap", Map.of("state.backend.type", "hashmap"), new Job());
        jobs.checkpoint("job-heap-master-hook", Map.of("state.backend.type", "hashmap"), new Job().withMasterHook());
        jobs.checkpoint("job-heap-finished", Map.of("state.backend.type", "hashmap"), new Job().withFinishedSource());
        jobs.checkpoint("job-rocksdb-incremental", ROCKSDB_INCREMENTAL, new Job());
        jobs.checkpoint(
                "job-rocksdb-unaligned",
                with(ROCKSDB_INCREMENTAL, Map.of("execution.checkpointing.unaligned.enabled", "true")),
                new Job().slow());
        jobs.checkpoint(
                "job-rocksdb-file-merging",
                with(ROCKSDB_INCREMENTAL, Map.of("execution.checkpointing.file-merging.enabled", "true")),
                new Job());
        jobs.checkpoint(
                "job-heap-unaligned-file-merging",
                Map.of(
                        "state.backend.type", "hashmap",
                        "execution.checkpointing.unaligned.enabled", "true",
                        "execution.checkpointing.file-merging.enabled", "true"),
                new Job().slow());
        jobs.checkpoint(
                "job-changelog",
                with(
                        ROCKSDB_INCREMENTAL,
                        Map.of(
                                "state.changelog.enabled", "true",
                                "state.changelog.storage", "filesystem",
                                "state.changelog.periodic-materialize.interval", "2 s",
                                "state.changelog.dstl.dfs.base-path", jobs.work.resolve("dstl").toUri().toString())),
                new Job());
        jobs.savepoint("job-savepoint-canonical", ROCKSDB_INCREMENTAL, SavepointFormatType.CANONICAL);
        jobs.savepoint("job-savepoint-native", ROCKSDB_INCREMENTAL, SavepointFormatType.NATIVE);
    }

    private static Map<String, String> with(Map<String, String> settings, Map<String, String> more) {
        Map<String, String> all = new HashMap<>(settings);
        all.putAll(more);
        return all;
    }

    private void checkpoint(String name, Map<String, String> settings, Job job) throws Exception {
        run(
                name,
                settings,
                job,
                (cluster, id) -> {
                    cluster.triggerCheckpoint(id).get();
                    Thread.sleep(1000);
                    return cluster.triggerCheckpoint(id).get();
                });
    }

    private void savepoint(String name, Map<String, String> settings, SavepointFormatType format) throws Exception {
        String target = work.resolve("savepoints").toUri().toString();
        run(name, settings, new Job(), (cluster, id) -> cluster.triggerSavepoint(id, target, false, format).get());
    }

    private interface Trigger {
        String trigger(MiniCluster cluster, JobID id) throws Exception;
    }

    private void run(String name, Map<String, String> settings, Job job, Trigger trigger) throws Exception {
        Configuration configuration = Configuration.fromMap(settings);
        configuration.setString("execution.checkpointing.dir", work.resolve(name).toUri().toString());
        configuration.setString("execution.checkpointing.interval", "1 h");
        configuration.setString(
                "execution.checkpointing.externalized-checkpoint-retention", "RETAIN_ON_CANCELLATION");
        configuration.setString("execution.checkpointing.data-inline-threshold", "100 b");
        configuration.setString("rest.bind-port", "0");
        MiniClusterConfiguration clusterConfiguration =
                new MiniClusterConfiguration.Builder()
                        .setConfiguration(configuration)
                        .setNumTaskManagers(1)
                        .setNumSlotsPerTaskManager(2)
                        .build();
        try (MiniCluster cluster = new MiniCluster(clusterConfiguration)) {
            cluster.start();
            JobGraph graph = job.graph(configuration);
            cluster.submitJob(graph).get();
            Thread.sleep(5000);
            String pointer = trigger.trigger(cluster, graph.getJobID());
            Path folder = golden.resolve(name);
            Files.createDirectories(folder);
            Files.copy(
                    Path.of(URI.create(pointer)).resolve("_metadata"),
                    folder.resolve("_metadata"),
                    StandardCopyOption.REPLACE_EXISTING);
            Golden.describe(folder);
            cluster.cancelJob(graph.getJobID()).get();
        }
    }

    /** Numbers, counted by their last two digits. */
    private static final class Job {

        private boolean finishedSource;
        private boolean masterHook;
        private boolean slow;

        Job withFinishedSource() {
            finishedSource = true;
            return this;
        }

        Job withMasterHook() {
            masterHook = true;
            return this;
        }

        Job slow() {
            slow = true;
            return this;
        }

        JobGraph graph(Configuration configuration) {
            StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment(configuration);
            env.setParallelism(2);
            env.setMaxParallelism(8);
            DataStream<Long> numbers = numbers(env, "numbers", Long.MAX_VALUE);
            if (finishedSource) {
                numbers = numbers.union(numbers(env, "few-numbers", 10));
            }
            if (masterHook) {
                numbers = numbers.union(env.addSource(new HookedSource()).name("hooked").uid("hooked"));
            }
            numbers.keyBy(number -> number % 100)
                    .process(new Count())
                    .name("Count")
                    .uid("count")
                    .rebalance()
                    .map(new Lists(slow))
                    .name("Lists")
                    .uid("lists")
                    .sinkTo(new DiscardingSink<>())
                    .name("Nowhere");
            return env.getStreamGraph().getJobGraph();
        }

        private DataStream<Long> numbers(StreamExecutionEnvironment env, String uid, long count) {
            DataGeneratorSource<Long> source =
                    new DataGeneratorSource<>(
                            number -> number,
                            count,
                            slow ? RateLimiterStrategy.noOp() : RateLimiterStrategy.perSecond(1000),
                            Types.LONG);
            return env.fromSource(source, WatermarkStrategy.noWatermarks(), "Source of " + uid).uid(uid);
        }
    }

    private static final class Count extends KeyedProcessFunction<Long, Long, Long> {

        private transient ValueState<Long> count;

        @Override
        public void open(OpenContext context) {
            count = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Types.LONG));
        }

        @Override
        public void processElement(Long number, Context context, Collector<Long> out) throws Exception {
            Long before = count.value();
            count.update(before == null ? 1 : before + 1);
            long now = context.timerService().currentProcessingTime();
            context.timerService().registerProcessingTimeTimer(now + Duration.ofHours(1).toMillis());
            out.collect(number);
        }
    }

    private static final class Lists extends RichMapFunction<Long, Long> implements CheckpointedFunction {

        private final boolean slow;
        private transient ListState<Long> split;
        private transient ListState<Long> union;
        private long last;

        Lists(boolean slow) {
            this.slow = slow;
        }

        @Override
        public Long map(Long number) throws InterruptedException {
            if (slow) {
                Thread.sleep(20);
            }
            last = number;
            return number;
        }

        @Override
        public void initializeState(FunctionInitializationContext context) throws Exception {
            split = context.getOperatorStateStore().getListState(new ListStateDescriptor<>("split", Types.LONG));
            union = context.getOperatorStateStore().getUnionListState(new ListStateDescriptor<>("union", Types.LONG));
            context.getOperatorStateStore()
                    .getBroadcastState(new MapStateDescriptor<>("broadcast", Types.STRING, Types.LONG))
                    .put("answer", 42L);
        }

        @Override
        public void snapshotState(FunctionSnapshotContext context) throws Exception {
            split.update(List.of(last, last + 1));
            union.update(List.of(last));
        }
    }

    private static final class HookedSource implements SourceFunction<Long>, WithMasterCheckpointHook<String> {

        private volatile boolean running = true;

        @Override
        public void run(SourceContext<Long> context) throws InterruptedException {
            while (running) {
                Thread.sleep(10);
            }
        }

        @Override
        public void cancel() {
            running = false;
        }

        @Override
        public MasterTriggerRestoreHook<String> createMasterTriggerRestoreHook() {
            return new Hook();
        }
    }

    private static final class Hook implements MasterTriggerRestoreHook<String> {

        @Override
        public String getIdentifier() {
            return "hook";
        }

        @Override
        public CompletableFuture<String> triggerCheckpoint(long checkpointId, long timestamp, Executor executor) {
            return CompletableFuture.completedFuture("triggered " + checkpointId);
        }

        @Override
        public void restoreCheckpoint(long checkpointId, String state) {}

        @Override
        public SimpleVersionedSerializer<String> createCheckpointDataSerializer() {
            return new TextSerializer();
        }
    }

    private static final class TextSerializer implements SimpleVersionedSerializer<String> {

        @Override
        public int getVersion() {
            return 7;
        }

        @Override
        public byte[] serialize(String text) {
            return text.getBytes(StandardCharsets.UTF_8);
        }

        @Override
        public String deserialize(int version, byte[] bytes) throws IOException {
            return new String(bytes, StandardCharsets.UTF_8);
        }
    }
}
