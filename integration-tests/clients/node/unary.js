// Calls of the mesh by Node's grpc-js, as its users write them.
"use strict";

const { attempt, credentials, grpc, load, metadata, run, task, within } = require("./client.js");

// Pings every 200 ms, with and without calls: a server that minds would end the connection.
const pings = { "grpc.keepalive_time_ms": 200, "grpc.keepalive_permit_without_calls": 1 };

async function steps(results) {
  const { ServerService } = load("trailmesh/tenant/v1/server_service.proto").tenant.v1;
  const servers = new ServerService(task.target, credentials(), pings);
  const disconnected = [];
  follow(servers.getChannel(), disconnected);
  const key = { authorization: `Bearer ${task.key}` };
  const person = { authorization: `Bearer ${task.token}` };

  async function step(name, method, request, headers, seconds = 30) {
    const [result, answer] = await attempt((done) => servers[method](request, metadata(headers), within(seconds), done));
    results[name] = result;
    return answer;
  }

  let answer = await step("key", "listServers", {}, key);
  results.key.servers = answer?.servers.map((server) => server.name);
  await step("nobody", "listServers", {}, {});
  await step("wrong key", "listServers", {}, { authorization: "Bearer bt_live_wrong" });

  // A person in two tenants says which; a key has only one.
  await step("no tenant", "listServers", {}, person);
  await step("tenant", "listServers", {}, { ...person, "x-trailmesh-tenant": task.tenant });
  await step("nonsense tenant", "listServers", {}, { ...person, "x-trailmesh-tenant": task.nonsense_tenant });

  const server = { name: task.name, host: "db.example.com", username: "trail", labels: { from: "Node" } };
  await step("no code", "registerServer", { server }, key);
  const coded = { ...key, "x-mfa-code": task.code };
  answer = await step("code", "registerServer", { server }, coded);
  results.code.port = answer?.server.port;
  await step("code again", "registerServer", { server }, coded);
  await step("nonsense id", "getServer", { server_id: "nonsense" }, key);

  for (const [name, path] of [
    ["unknown method", "/trailmesh.tenant.v1.ServerService/Nothing"],
    ["internal method", "/trailmesh.auth.v1.GuardService/Authenticate"],
  ]) {
    const same = (bytes) => bytes;
    const call = (done) => servers.makeUnaryRequest(path, same, same, Buffer.alloc(0), metadata(key), within(30), done);
    [results[name]] = await attempt(call);
  }

  await step("deadline", "listServers", {}, key, 0);
  const list = (done) => servers.listServers({}, metadata(key), within(60), done);
  [results.cancel] = await attempt(list, (call) => call.cancel());

  const all = await Promise.all(Array.from({ length: 200 }, () => attempt(list)));
  results.parallel = [...new Set(all.map(([result]) => result.code))].sort();
  results.disconnected = disconnected;
  servers.close();
}

/** Notes each time that a channel loses its connection. */
function follow(channel, disconnected) {
  const state = channel.getConnectivityState(true);
  if (state === grpc.connectivityState.SHUTDOWN) return;
  if (state === grpc.connectivityState.TRANSIENT_FAILURE) disconnected.push("TRANSIENT_FAILURE");
  channel.watchConnectivityState(state, Infinity, (error) => error || follow(channel, disconnected));
}

run(steps);
