/** The account in the header: what somebody has by now, and the way out. */

import { exchange } from "./exchange.js";

const LOG_OUT_MS = 10_000;
const menu = document.getElementById("account");
const figures = document.querySelectorAll("[data-credits]");
const failed = document.getElementById("log-out-failed");
let asked = 0;

/** Show the credits as they are now; without an answer they stay as they were. */
export async function refresh() {
  const mine = ++asked;
  try {
    const { text } = await exchange("/api/auth/me", {}, { isRepeatable: true });
    const { available } = JSON.parse(text).credits;
    if (mine !== asked) return;
    for (const figure of figures) figure.textContent = counted(available);
  } catch {
    // Offline, or logged out elsewhere: whatever is asked for next tells.
  }
}

function counted(number) {
  const { lang } = document.documentElement;
  const isOne = new Intl.PluralRules(lang).select(number) === "one";
  const text = isOne ? menu.dataset.one : menu.dataset.many;
  return text.replace("{n}", new Intl.NumberFormat(lang).format(number));
}

document.getElementById("log-out").addEventListener("click", async () => {
  failed.textContent = "";
  try {
    const { answer } = await exchange("/api/auth/logout", { method: "POST" }, { patienceMs: LOG_OUT_MS });
    if (!answer.ok && answer.status !== 401) throw new Error(answer.status);
  } catch {
    failed.textContent = failed.dataset.text;
    return;
  }
  // The next person at this screen shall not find what was typed.
  sessionStorage.clear();
  location.assign("/login");
});
