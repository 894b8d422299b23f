// Opens the links of mails in a browser, as a person does, and tells what is seen.
"use strict";

const fs = require("node:fs");
const { Browser } = require("./browser.js");

const task = JSON.parse(fs.readFileSync(0, "utf8"));

/** One visit: open, type, press, and wait for the end of it. */
async function visit(browser, { link, open, type, then }) {
  const tab = await browser.open(`${task.url}${link}`);
  await tab.until("!document.querySelector('form').hidden");
  const seen = { address: await tab.value("location.href"), first: await tab.text(), attempts: [] };
  if (open) await tab.press(open);
  for (const values of [type, ...(then ?? [])]) {
    for (const [field, text] of Object.entries(values)) await tab.type(`#${field}`, text);
    // What was said to the attempt before must not be taken for an answer.
    await tab.value("document.querySelector('#problem').textContent = ''");
    await tab.press("button[type=submit]");
    const ended = "!document.querySelector('button').disabled && (document.querySelector('#problem').textContent || document.querySelector('#done').textContent)";
    const said = await tab.until(ended);
    seen.attempts.push({ title: await tab.value("document.title"), said });
  }
  const own = tab.happened("Network.requestWillBeSent").map(({ request }) => request);
  seen.requests = own.map(({ method, url }) => `${method} ${url.replace(task.url, "")}`);
  seen.referrers = own.flatMap(({ headers }) => headers.Referer || []);
  seen.complaints = [
    ...tab.happened("Log.entryAdded").filter(({ entry }) => entry.source !== "network").map(({ entry }) => entry.text),
    ...tab.happened("Runtime.exceptionThrown").map(({ exceptionDetails }) => exceptionDetails.exception?.description ?? exceptionDetails.text),
  ];
  seen.stored = await tab.value("[localStorage.length, sessionStorage.length, document.cookie.length]");
  const pictures = process.env.TRAILMESH_TEST_SCREENSHOTS;
  if (pictures) await tab.screenshot(`${pictures}${link.split("#")[0]}.png`);
  return seen;
}

async function all() {
  const browser = await Browser.start(task.url, task.ca);
  try {
    const seen = {};
    for (const one of task.visits) seen[one.name] = await visit(browser, one);
    return seen;
  } finally {
    await browser.stop();
  }
}

all().then(
  (seen) => process.stdout.write(`${JSON.stringify(seen)}\n`),
  (error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exitCode = 1;
  },
);
