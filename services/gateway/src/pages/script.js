"use strict";

const form = document.querySelector("form");
const button = form.querySelector("button");
const heading = document.querySelector("h1");
const problem = document.getElementById("problem");
const done = document.getElementById("done");
const factor = document.getElementById("factor");
const field = (name) => form.elements.namedItem(name);
const typed = (name) => field(name)?.value.trim() ?? "";
let mailed = "";

/** Takes the mail's token out of the fragment, which no server sees, and out of the address bar. Without one, a person types it. */
function takeToken() {
  mailed = new URLSearchParams(location.hash.slice(1)).get("token") ?? mailed;
  history.replaceState(null, "", location.pathname);
  field("token").disabled = mailed !== "";
  document.getElementById("typed-token").hidden = mailed !== "";
}

const token = () => mailed || typed("token");

/** What the API refused, or that nothing came back. */
class Problem extends Error {
  constructor(words, reason) {
    super(words);
    this.reason = reason;
  }
}

/** What a person can do about it, where the API's own words do not say so. */
const ADVICE = {
  TOKEN_INVALID: form.dataset.ended,
  INVITATION_NOT_FOUND: form.dataset.ended,
  MFA_CODE_REQUIRED: "Enter the six digits that your authenticator shows now, or a recovery code.",
  MFA_CODE_INVALID: "A code works once: wait for the next one.",
};

/** One call of the API; paths are relative, so that a prefix in front of the page is in front of the API too. */
async function post(path, body, headers = {}) {
  let answer, said;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
      signal: AbortSignal.timeout(30_000),
    });
    said = await answer.json();
  } catch {
    throw new Problem("No answer came back. Please try again in a moment.");
  }
  if (answer.ok) return said;
  const reason = said.error?.details?.find((detail) => detail.reason)?.reason;
  let words = said.error?.message || `The answer was ${answer.status}`;
  words = words[0].toUpperCase() + words.slice(1).replace(/\.?$/, ".");
  const seconds = Number(answer.headers.get("Retry-After"));
  if (ADVICE[reason]) words += ` ${ADVICE[reason]}`;
  if (seconds > 0) words += ` Wait ${seconds > 90 ? `${Math.ceil(seconds / 60)} minutes` : `${seconds} seconds`}.`;
  throw new Problem(words, reason);
}

/** The second factor's code, where one was typed. */
const code = () => (typed("code") ? { "X-MFA-Code": typed("code").replace(" ", "") } : {});

// What each page does; the answer is the heading and the words of success.
const ACTIONS = {
  async "verify-email"() {
    const { account } = await post("v1/auth/verify-email", { token: token() });
    return ["Address verified", `${account.email} is verified. You can sign in now.`];
  },
  async "reset-password"() {
    const body = { token: token(), newPassword: field("new-password").value, recoveryCode: typed("recovery-code") };
    await post("v1/auth/reset-password", body, code());
    return ["Password set", "Your new password counts from now on, and all sessions were ended. Sign in with it."];
  },
  async "accept-invitation"() {
    const login = { email: typed("email"), password: field("password").value, recoveryCode: typed("recovery-code") };
    const { tokens } = await post("v1/auth/login", login, code());
    const session = { Authorization: `Bearer ${tokens.accessToken}` };
    try {
      const { tenantId, role } = await post("v1/invitations:accept", { token: token() }, session);
      const called = role.replace("ROLE_", "").toLowerCase();
      return ["You are a member", `Your role is ${called}. Calls for this tenant name it as ${tenantId}.`];
    } finally {
      // The session was for this call only.
      await post("v1/auth/logout", {}, session).catch(() => {});
    }
  },
};

/** Both passwords must be the same. */
function compare() {
  const again = field("again");
  const same = !again || again.value === field("new-password").value;
  again?.setCustomValidity(same ? "" : "The two passwords are not the same.");
}

/** A field that is to be corrected must be seen. */
function unfold({ target }) {
  const folded = target.closest("details");
  if (folded) folded.open = true;
}

async function submit(event) {
  event.preventDefault();
  if (button.disabled) return;
  const label = button.textContent;
  problem.textContent = "";
  button.disabled = true;
  button.textContent = "One moment…";
  form.setAttribute("aria-busy", "true");
  try {
    const [title, words] = await ACTIONS[form.id]();
    form.reset();
    mailed = "";
    form.hidden = true;
    document.querySelector(".lead").hidden = true;
    document.querySelector(".card").classList.add("done");
    document.title = `${title} · Trailmesh`;
    heading.textContent = title;
    done.textContent = words;
    done.hidden = false;
    heading.focus();
  } catch (error) {
    problem.textContent = error instanceof Problem ? error.message : "Something went wrong here. Please try again.";
    if (factor && error.reason?.startsWith("MFA_CODE")) {
      factor.open = true;
      field("code").value = "";
      field("code").focus();
    }
  }
  button.textContent = label;
  button.disabled = false;
  form.removeAttribute("aria-busy");
}

takeToken();
addEventListener("hashchange", takeToken);
form.addEventListener("input", compare);
form.addEventListener("invalid", unfold, true);
form.addEventListener("submit", submit);
form.hidden = false;
