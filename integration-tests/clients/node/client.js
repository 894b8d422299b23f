// What the scripts beside this one share: services loaded from the protos, a channel, and outcomes as JSON.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");

// The task: one JSON object on standard input, so that no secret is on a command line.
const task = JSON.parse(fs.readFileSync(0, "utf8"));
// The packages are not beside this file.
const packages = createRequire(path.join(process.env.TRAILMESH_TEST_NODE_HOME, "package.json"));
const grpc = packages("@grpc/grpc-js");
const loader = packages("@grpc/proto-loader");
const protobuf = packages("protobufjs");

/** The services of one proto. */
function load(file) {
  const options = { includeDirs: task.protos, keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
  return grpc.loadPackageDefinition(loader.loadSync(file, options)).trailmesh;
}

/** Credentials that trust the task's authority and nobody else. */
function credentials() {
  return grpc.credentials.createSsl(fs.readFileSync(task.ca));
}

/** Metadata from an object. */
function metadata(values) {
  const made = new grpc.Metadata();
  for (const [name, value] of Object.entries(values)) made.set(name, value);
  return made;
}

// google.rpc.Status and ErrorInfo, as https://google.aip.dev/193 has them.
const rich = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
`).root;

/** How a call ended: its code, and from the rich status the reason and domain. */
function outcome(error) {
  if (!error) return { code: "OK" };
  if (!error.metadata) throw error;
  const result = { code: grpc.status[error.code] };
  for (const bytes of error.metadata.get("grpc-status-details-bin")) {
    const status = rich.lookupType("Status").decode(bytes);
    if (status.code !== error.code) result.code += ` and ${status.code}`;
    for (const detail of status.details) {
      if (!detail.typeUrl.endsWith("/google.rpc.ErrorInfo")) continue;
      const { reason, domain } = rich.lookupType("ErrorInfo").decode(detail.value);
      Object.assign(result, { reason, domain });
    }
  }
  return result;
}

/** The outcome of a unary call, with how long it took; `start` takes the callback and gives the call. */
function attempt(start, afterwards = () => {}) {
  const began = process.hrtime.bigint();
  return new Promise((resolve, reject) => {
    const call = start((error, answer) => {
      const seconds = Number(process.hrtime.bigint() - began) / 1e9;
      try {
        resolve([{ ...outcome(error), seconds }, answer]);
      } catch (unexpected) {
        reject(unexpected);
      }
    });
    afterwards(call);
  });
}

/** The options of a call that may take so many seconds. */
function within(seconds) {
  return { deadline: Date.now() + seconds * 1000 };
}

/** Runs `steps`, which fills an object, and prints that. */
function run(steps) {
  const results = {};
  steps(results).then(
    () => process.stdout.write(`${JSON.stringify(results)}\n`),
    (error) => {
      process.stderr.write(`${error.stack}\n`);
      process.exitCode = 1;
    },
  );
}

module.exports = { attempt, credentials, grpc, load, metadata, outcome, run, task, within };
