// A browser, driven by its own protocol over a pipe: no port that others could use, no package that must be installed.
"use strict";

const { spawn } = require("node:child_process");
const crypto = require("node:crypto");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const tls = require("node:tls");

const PATIENCE = 20_000;

/** The digest of the key that the server shows to who trusts the authority `ca`, as Chromium wants it. */
function keyOf(url, ca) {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host: hostname, port, servername: hostname, ca: fs.readFileSync(ca) }, () => {
      const key = socket.getPeerX509Certificate().publicKey.export({ type: "spki", format: "der" });
      socket.destroy();
      resolve(crypto.createHash("sha256").update(key).digest("base64"));
    });
    socket.on("error", reject);
  });
}

class Browser {
  /** Starts one that trusts the server at `url`, and no other that its system does not trust. */
  static async start(url, ca) {
    const browser = new Browser();
    browser.folder = fs.mkdtempSync(path.join(os.tmpdir(), "trailmesh-browser"));
    const flags = [
      "--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
      "--disable-background-networking", "--disable-component-update", "--disable-sync", "--lang=en",
      `--user-data-dir=${browser.folder}`, `--ignore-certificate-errors-spki-list=${await keyOf(url, ca)}`,
    ];
    // Its sandbox does not work for root, which tests in containers are.
    if (process.getuid() === 0) flags.push("--no-sandbox");
    const program = process.env.TRAILMESH_TEST_CHROMIUM || "/usr/bin/chromium";
    browser.process = spawn(program, [...flags, "about:blank"], {
      stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
      env: { ...process.env, HOME: browser.folder },
    });
    browser.process.on("error", (error) => browser.fail(error));
    browser.process.on("exit", () => browser.fail(new Error("the browser ended")));
    browser.listen();
    return browser;
  }

  constructor() {
    this.calls = new Map();
    this.events = [];
    this.waiting = new Set();
    this.number = 0;
  }

  fail(error) {
    for (const { reject } of this.calls.values()) reject(error);
    this.calls.clear();
  }

  listen() {
    const [input, output] = [this.process.stdio[3], this.process.stdio[4]];
    this.send = (message) => input.write(`${JSON.stringify(message)}\0`);
    input.on("error", (error) => this.fail(error));
    let rest = Buffer.alloc(0);
    output.on("data", (bytes) => {
      rest = Buffer.concat([rest, bytes]);
      for (let end = rest.indexOf(0); end >= 0; end = rest.indexOf(0)) {
        this.take(JSON.parse(rest.subarray(0, end).toString()));
        rest = rest.subarray(end + 1);
      }
    });
  }

  take(message) {
    const call = this.calls.get(message.id);
    this.calls.delete(message.id);
    if (!call) this.events.push(message);
    else if (message.error) call.reject(new Error(`${call.method}: ${message.error.message}`));
    else call.resolve(message.result);
  }

  call(method, params = {}, sessionId = undefined) {
    const id = ++this.number;
    return new Promise((resolve, reject) => {
      const clock = setTimeout(() => reject(new Error(`${method}: no answer`)), PATIENCE);
      const settle = (how) => (value) => (clearTimeout(clock), how(value));
      this.calls.set(id, { method, resolve: settle(resolve), reject: settle(reject) });
      this.send({ id, method, params, sessionId });
    });
  }

  /** A new tab of a profile of its own, at `url`. */
  async open(url) {
    const { browserContextId } = await this.call("Target.createBrowserContext");
    const { targetId } = await this.call("Target.createTarget", { url: "about:blank", browserContextId });
    const { sessionId } = await this.call("Target.attachToTarget", { targetId, flatten: true });
    const tab = new Tab(this, sessionId);
    for (const domain of ["Page", "Network", "Log", "Runtime"]) await tab.call(`${domain}.enable`);
    const { errorText } = await tab.call("Page.navigate", { url });
    if (errorText) throw new Error(`${new URL(url).pathname}: ${errorText}`);
    await tab.until("document.readyState === 'complete'");
    return tab;
  }

  async stop() {
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    await this.call("Browser.close").catch(() => this.process.kill("SIGKILL"));
    await ended;
    fs.rmSync(this.folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
}

class Tab {
  constructor(browser, session) {
    this.browser = browser;
    this.session = session;
  }

  call(method, params) {
    return this.browser.call(method, params, this.session);
  }

  /** What an expression is in the page. */
  async value(expression) {
    const { result, exceptionDetails } = await this.call("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    return result.value;
  }

  /** Waits until an expression is true, and gives it. */
  async until(expression) {
    const end = Date.now() + PATIENCE;
    for (;;) {
      const value = await this.value(expression);
      if (value) return value;
      if (Date.now() > end) throw new Error(`never: ${expression}\n${await this.value("document.body.innerText")}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** A press with the mouse in the middle of what a selector finds. */
  async press(selector) {
    const found = `document.querySelector(${JSON.stringify(selector)})`;
    await this.value(`${found}.scrollIntoView({ block: "center" })`);
    const [x, y] = await this.value(`(({ x, y, width, height }) => [x + width / 2, y + height / 2])(${found}.getBoundingClientRect())`);
    for (const type of ["mousePressed", "mouseReleased"]) {
      await this.call("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
    }
  }

  /** Types into a field, as a keyboard does, in place of what it has. */
  async type(selector, text) {
    await this.value(`(field => { field.focus(); field.select(); })(document.querySelector(${JSON.stringify(selector)}))`);
    await this.call("Input.insertText", { text });
  }

  /** The text that a person sees. */
  text() {
    return this.value("document.body.innerText");
  }

  /** What happened in this tab so far: events of one method. */
  happened(method) {
    return this.browser.events.filter((event) => event.sessionId === this.session && event.method === method).map(({ params }) => params);
  }

  async screenshot(file) {
    const { data } = await this.call("Page.captureScreenshot", { captureBeyondViewport: true });
    fs.writeFileSync(file, Buffer.from(data, "base64"));
  }
}

module.exports = { Browser };
