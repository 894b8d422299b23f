import client.trailmesh.change.v1.Change;
import client.trailmesh.change.v1.Filter;
import client.trailmesh.change.v1.TableFilter;
import client.trailmesh.change.v1.Value;
import client.trailmesh.query.v1.FollowChangesRequest;
import client.trailmesh.query.v1.QueryChangesRequest;
import client.trailmesh.query.v1.QueryServiceGrpc;
import client.trailmesh.query.v1.StreamChangesRequest;
import client.trailmesh.recovery.v1.GetScriptRequest;
import client.trailmesh.recovery.v1.PlanUndoRequest;
import client.trailmesh.recovery.v1.RecoveryServiceGrpc;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.protobuf.ByteString;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;

/**
 * The main job by grpc-java: what changed, the plan that undoes it, and its script.
 *
 * <p>It reads its task, one JSON object, from standard input, so that no secret is on a command line, and prints what it found as
 * JSON.
 */
final class Job {
  private static final class Task {
    String target;
    String ca;
    String key;
    String server;
  }

  private final Map<String, Object> found = new TreeMap<>();
  private final QueryServiceGrpc.QueryServiceBlockingStub changes;
  private final RecoveryServiceGrpc.RecoveryServiceBlockingStub plans;
  private final String server;
  private final Filter orders =
      Filter.newBuilder().addTables(TableFilter.newBuilder().setSchema("shop").setTable("orders")).build();

  private Job(ManagedChannel channel, Task task) {
    Metadata key = new Metadata();
    key.put(text("authorization"), "Bearer " + task.key);
    changes = QueryServiceGrpc.newBlockingStub(channel).withInterceptors(MetadataUtils.newAttachHeadersInterceptor(key));
    plans = RecoveryServiceGrpc.newBlockingStub(channel).withInterceptors(MetadataUtils.newAttachHeadersInterceptor(key));
    server = task.server;
  }

  public static void main(String[] arguments) throws Exception {
    Task task = new Gson().fromJson(new InputStreamReader(System.in, StandardCharsets.UTF_8), Task.class);
    ManagedChannel channel =
        Grpc.newChannelBuilder(task.target, TlsChannelCredentials.newBuilder().trustManager(new File(task.ca)).build()).build();
    try {
      Job job = new Job(channel, task);
      job.undo(job.ask());
      job.follow();
      byte[] json = new GsonBuilder().serializeNulls().create().toJson(job.found).getBytes(StandardCharsets.UTF_8);
      System.out.write(json, 0, json.length);
      System.out.flush();
    } finally {
      channel.shutdownNow().awaitTermination(10, TimeUnit.SECONDS);
    }
  }

  private static Metadata.Key<String> text(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  /** Finds the newest change, and counts all that come in a stream. */
  private Change ask() {
    var page =
        changes
            .withDeadlineAfter(30, TimeUnit.SECONDS)
            .queryChanges(QueryChangesRequest.newBuilder().setServer(server).setFilter(orders).setPageSize(1).build());
    Change newest = page.getChanges(0);
    Map<String, Object> before = new TreeMap<>();
    newest.getBefore().getCellsList().forEach(cell -> before.put(cell.getColumn(), valueOf(cell.getValue())));
    found.put(
        "newest",
        Map.of(
            "op", newest.getOp().name(),
            "before", before,
            "more", !page.getNextPageToken().isEmpty(),
            "complete", page.getCoverage().getComplete()));
    var frames =
        changes
            .withDeadlineAfter(30, TimeUnit.SECONDS)
            .streamChanges(StreamChangesRequest.newBuilder().setServer(server).setFilter(orders).build());
    int streamed = 0;
    while (frames.hasNext()) {
      streamed += frames.next().getChangesCount();
    }
    found.put("streamed", streamed);
    return newest;
  }

  /** Plans, and takes the script, whose digest is in the plan, before the first byte, and after the last. */
  private void undo(Change newest) throws Exception {
    String transaction = newest.getPosition().getFile() + ":" + newest.getPosition().getOffset();
    var planned =
        plans
            .withDeadlineAfter(30, TimeUnit.SECONDS)
            .planUndo(
                PlanUndoRequest.newBuilder().setServer(server).setFilter(Filter.newBuilder().setTransaction(transaction)).build());
    found.put(
        "plan",
        Map.of("included", planned.getPlan().getSummary().getIncluded(), "conflicts", planned.getConflictsCount()));
    AtomicReference<Metadata> before = new AtomicReference<>();
    AtomicReference<Metadata> after = new AtomicReference<>();
    var pieces =
        plans
            .withInterceptors(MetadataUtils.newCaptureMetadataInterceptor(before, after))
            .withDeadlineAfter(30, TimeUnit.SECONDS)
            .getScript(GetScriptRequest.newBuilder().setPlanId(planned.getPlan().getId()).build());
    ByteString script = ByteString.EMPTY;
    while (pieces.hasNext()) {
      script = script.concat(pieces.next().getChunk().getData());
    }
    String digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(script.toByteArray()));
    List<Boolean> digests = new ArrayList<>();
    digests.add(digest.equals(planned.getPlan().getDigest()));
    for (Metadata said : List.of(before.get(), after.get())) {
      digests.add(digest.equals(said.get(text("trailmesh-digest"))));
    }
    found.put("script", Map.of("text", script.toStringUtf8(), "digests", digests));
  }

  /** Hears of what comes, and hangs up. */
  private void follow() {
    Context.CancellableContext call = Context.current().withCancellation();
    call.run(
        () -> {
          var following =
              changes
                  .withDeadlineAfter(30, TimeUnit.SECONDS)
                  .followChanges(FollowChangesRequest.newBuilder().setServer(server).setFilter(orders).setLast(1).build());
          while (!found.containsKey("followed")) {
            var frame = following.next();
            if (frame.getChangesCount() > 0) {
              found.put("followed", frame.getChanges(0).getOp().name());
            }
          }
        });
    call.cancel(null);
  }

  private static Object valueOf(Value value) {
    return switch (value.getKindCase()) {
      case NULL -> null;
      case INT -> value.getInt();
      case DECIMAL -> value.getDecimal();
      case TEXT -> value.getText();
      case BYTES -> HexFormat.of().formatHex(value.getBytes().toByteArray());
      default -> value.toString();
    };
  }
}
