// Streams through the gateway by Node's grpc-js, as its users write them.
"use strict";

const { attempt, credentials, load, metadata, outcome, run, task, within } = require("./client.js");

const pings = { "grpc.keepalive_time_ms": 100, "grpc.keepalive_permit_without_calls": 1 };
const slowly = { nanos: 10_000_000 };

async function steps(results) {
  const { EchoService } = load("echo.proto").echo.v1;
  const echo = new EchoService(task.target, credentials(), pings);
  const count = (request, seconds = 60) => echo.count(request, metadata({}), within(seconds));

  results.thousand = await read(count({ to: 1000 }));
  results.cancel = await read(count({ to: 100_000, every: slowly }), 5);
  results["late error"] = await read(count({ to: 3, fail_with: 9 }));
  results["early error"] = await read(count({ fail_with: 5 }));
  results.deadline = await read(count({ to: 100_000, every: slowly }, 0.5));
  // Some ten pings fall into this one.
  results.pings = await read(count({ to: 4, every: { nanos: 300_000_000 } }));
  [results["unary deadline"]] = await attempt((done) => echo.echo({ wait: { seconds: 30 } }, metadata({}), within(0.3), done));

  const texts = Array.from({ length: 100 }, (_, turn) => `turn ${turn}`);
  results.chat = await chat(echo, texts);

  const [result, answer] = await attempt(
    (done) => echo.upload(metadata({}), within(60), done),
    (call) => {
      call.write({ header: { name: "from Node" } });
      for (let turn = 0; turn < 100; turn += 1) call.write({ chunk: Buffer.alloc(30_000, turn) });
      call.end();
    },
  );
  results.upload = { ...result, name: answer?.name, bytes: answer?.bytes, chunks: answer?.chunks };

  // Many streams at a time on one connection.
  const many = await Promise.all(Array.from({ length: 50 }, () => read(count({ to: 100 }))));
  results.many = [...new Set(many.map(({ code, messages }) => `('${code}', ${messages})`))].sort();
  echo.close();
}

/** The outcome of a stream and the numbers that came; cancelled when there are `upto`. */
function read(call, upto) {
  const began = process.hrtime.bigint();
  const numbers = [];
  return new Promise((resolve) => {
    call.on("data", ({ number }) => {
      if (numbers.length === upto) return;
      numbers.push(number);
      if (numbers.length === upto) call.cancel();
    });
    const end = (error) => {
      const seconds = Number(process.hrtime.bigint() - began) / 1e9;
      const in_order = numbers.every((number, index) => number === index + 1);
      resolve({ ...outcome(error), seconds, messages: numbers.length, in_order });
    };
    call.on("error", end);
    call.on("status", ({ code }) => code || end(null));
  });
}

/** Says each text when the one before has come back. */
function chat(echo, texts) {
  const call = echo.chat(metadata({}), within(60));
  const heard = [];
  return new Promise((resolve) => {
    call.on("data", ({ text }) => {
      heard.push(text);
      if (heard.length === texts.length) call.end();
      else call.write({ text: texts[heard.length] });
    });
    const end = (error) => resolve({ ...outcome(error), same: heard.join() === texts.join() });
    call.on("error", end);
    call.on("status", ({ code }) => code || end(null));
    call.write({ text: texts[0] });
  });
}

run(steps);
