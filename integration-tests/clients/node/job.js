// The main job by Node's grpc-js: what changed, the plan that undoes it, and its script.
"use strict";

const { createHash } = require("node:crypto");
const { credentials, load, metadata, run, task, within } = require("./client.js");

async function steps(results) {
  const { QueryService } = load("trailmesh/query/v1/query_service.proto").query.v1;
  const { RecoveryService } = load("trailmesh/recovery/v1/recovery_service.proto").recovery.v1;
  const changes = new QueryService(task.target, credentials());
  const plans = new RecoveryService(task.target, credentials());
  const key = () => metadata({ authorization: `Bearer ${task.key}` });
  const server = task.server;
  const orders = { tables: [{ schema: "shop", table: "orders" }] };
  const ask = (client, method, request) =>
    new Promise((done, failed) => client[method](request, key(), within(30), (error, answer) => (error ? failed(error) : done(answer))));

  const page = await ask(changes, "queryChanges", { server, filter: orders, page_size: 1 });
  const newest = page.changes[0];
  results.newest = {
    op: newest.op,
    before: Object.fromEntries(newest.before.cells.map((cell) => [cell.column, valueOf(cell.value)])),
    more: page.next_page_token !== "",
    complete: page.coverage.complete,
  };
  results.streamed = 0;
  for await (const frame of changes.streamChanges({ server, filter: orders }, key(), within(30))) {
    results.streamed += frame.changes.length;
  }

  const transaction = `${newest.position.file}:${newest.position.offset}`;
  const planned = await ask(plans, "planUndo", { server, filter: { transaction } });
  results.plan = { included: Number(planned.plan.summary.included), conflicts: planned.conflicts.length };
  const call = plans.getScript({ plan_id: planned.plan.id }, key(), within(30));
  let before, after;
  call.on("metadata", (head) => (before = head.get("trailmesh-digest")[0]));
  const ended = new Promise((done) => call.on("status", (status) => done((after = status.metadata.get("trailmesh-digest")[0]))));
  const pieces = [];
  for await (const piece of call) pieces.push(piece.chunk.data);
  await ended;
  const script = Buffer.concat(pieces);
  const digest = createHash("sha256").update(script).digest("hex");
  results.script = { text: script.toString(), digests: [digest === planned.plan.digest, before === digest, after === digest] };

  // A follower hears of what comes, and hangs up.
  const following = changes.followChanges({ server, filter: orders, last: 1 }, key(), within(30));
  following.on("error", () => {});
  for await (const frame of following) {
    if (frame.changes.length > 0) {
      results.followed = frame.changes[0].op;
      break;
    }
  }
  following.cancel();
  changes.close();
  plans.close();
}

function valueOf(value) {
  if (value.kind === "null") return null;
  const found = value[value.kind];
  return Buffer.isBuffer(found) ? found.toString("hex") : found;
}

run(steps);
