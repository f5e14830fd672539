/**
 * The doors' forms. Each sends its fields as JSON to `data-api`, then goes on to `data-then`: a path, or another view
 * of the page. What is wrong is said beside the field it is about, or above the button.
 */

const $ = (id) => document.getElementById(id);
const texts = JSON.parse($("door").dataset.texts);

const REQUEST_MS = 30_000;
const MOST_PASSWORD_BYTES = 1024;
/** Typed once: the next form of this tab, at another door, has it already. */
const EMAIL = "nanohook.email";

async function send(form) {
  if (form.ariaBusy === "true") return;
  for (const input of inputs(form)) tell(input, "");
  notice(form, "");
  const wrong = inputs(form).map((input) => [input, fault(input)]).filter(([, text]) => text);
  if (wrong.length) return point(wrong);
  busy(form, true);
  try {
    const answer = await fetch(form.dataset.api, {
      method: "POST",
      headers: { "Content-Type": "application/json", "Accept-Language": document.documentElement.lang },
      body: JSON.stringify(Object.fromEntries(new FormData(form))),
      signal: AbortSignal.timeout(REQUEST_MS),
    });
    if (!answer.ok) refuse(form, answer, await answer.json().catch(() => ({})));
    // The button stays busy while the next page comes.
    else if (await isIn(form)) return onward(form);
    else notice(form, texts.not_kept);
  } catch {
    notice(form, texts.no_network);
  }
  busy(form, false);
}

/**
 * Whether the browser keeps the cookie that a login gave it, or the next page would only ask for the password again.
 * Some keep none; over http:// none puts one in the place of one that the same host gave it over https://.
 */
async function isIn({ dataset }) {
  if (dataset.api !== "/api/auth/login") return true;
  const { status } = await fetch("/api/auth/me", { signal: AbortSignal.timeout(REQUEST_MS) });
  return status !== 401;
}

function onward(form) {
  const { then, api } = form.dataset;
  if (api === "/api/auth/logout") sessionStorage.clear();
  if (then.startsWith("/")) return go(then);
  busy(form, false);
  for (const secret of form.querySelectorAll(".secret input")) secret.value = "";
  // A link is good once: a reload must not offer it again.
  if (then === "done") history.replaceState(null, "", location.pathname);
  show(then);
}

function refuse(form, { status, headers }, { code, errors = [] }) {
  // A session that ended meanwhile, of somebody who wanted to end it or to use it.
  if (status === 401 && code !== "bad_credentials") {
    const isOut = form.dataset.api === "/api/auth/logout";
    return go(isOut ? "/login" : `/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  }
  if (code === "token_invalid" && $("failed")) return show("failed");
  const named = inputs(form).filter((input) => errors.some(({ field }) => field === input.name));
  if (named.length) {
    return point(named.map((input) => [input, input.type === "email" ? texts.email_bad : texts.password_bad]));
  }
  const known = Object.hasOwn(texts, code) ? texts[code] : { 429: texts.too_many, 503: texts.unavailable }[status];
  const text = (known ?? texts.unknown)
    .replace("{seconds}", headers.get("retry-after") ?? 10)
    .replace("{id}", headers.get("x-request-id") ?? status);
  notice(form, text);
  if (code !== "bad_credentials") return;
  form.elements.password.focus();
  form.elements.password.select();
}

/** What is wrong with a field before it is sent; the server has the last word. */
function fault({ name, value, minLength }) {
  if (name === "email") return /^[^\s@]+@[^\s@]+$/.test(value) ? "" : texts.email_bad;
  // As the server counts: characters, not their halves.
  if ([...value].length < minLength) return texts.password_short;
  if (!value) return texts.password_missing;
  return minLength > 0 && new Blob([value]).size > MOST_PASSWORD_BYTES ? texts.password_long : "";
}

const inputs = (form) => [...form.querySelectorAll(".field input")];

function tell(input, text) {
  $(`${input.id}-problem`).textContent = text;
  if (text) input.setAttribute("aria-invalid", true);
  else input.removeAttribute("aria-invalid");
}

function point(wrong) {
  for (const [input, text] of wrong) tell(input, text);
  wrong[0][0].focus();
}

function notice(form, text) {
  form.querySelector(".notice").textContent = text;
}

function busy(form, isBusy) {
  form.ariaBusy = isBusy;
  // Not `disabled`: that would throw the keyboard's focus away.
  const button = form.querySelector("[type=submit]");
  button.setAttribute("aria-disabled", isBusy);
  button.setAttribute("aria-busy", isBusy);
}

/** Of the page's views one is seen; whoever listens hears it from its beginning. */
function show(id) {
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== id;
  for (const place of document.querySelectorAll("[data-shows=email]")) {
    place.textContent = sessionStorage.getItem(EMAIL);
  }
  const view = $(id);
  const title = view.querySelector("h1");
  document.title = `${title.textContent} · nanohook`;
  (view.querySelector("input") ?? view).focus();
}

function go(path) {
  const to = new URL(path, location.origin);
  // A door stands in the place of the page that was asked for, whose #job is still in the address.
  if (to.pathname + to.search === location.pathname + location.search) location.reload();
  else location.assign(to);
}

for (const form of document.forms) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form);
  });
  for (const input of inputs(form)) input.addEventListener("input", () => tell(input, ""));
  form.querySelector("[type=submit]").disabled = false;
}

for (const eye of document.querySelectorAll(".eye")) {
  const input = eye.previousElementSibling;
  const look = (isSeen) => {
    input.type = isSeen ? "text" : "password";
    eye.setAttribute("aria-pressed", isSeen);
  };
  eye.addEventListener("click", () => look(input.type === "password"));
  // What browsers offer to keep, they look for in a field of this type.
  input.form.addEventListener("submit", () => look(false));
}

for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => show(button.dataset.view));
}

const email = $("email");
if (email) {
  email.value ||= sessionStorage.getItem(EMAIL) ?? "";
  email.addEventListener("input", () => sessionStorage.setItem(EMAIL, email.value));
  email.form.addEventListener("submit", () => sessionStorage.setItem(EMAIL, email.value));
}
// On a phone that would raise the keyboard over the page.
if (matchMedia("(pointer: fine)").matches) {
  [...document.querySelectorAll(".view:not([hidden]) .field input")].find((input) => !input.value)?.focus();
}
