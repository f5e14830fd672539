/** What the project pages share: their words, and how they ask for what they show. */

import { exchange } from "./exchange.js";
import { inWords } from "./problems.js";

export const $ = (id) => document.getElementById(id);
export const board = $("board");
/** The page's texts, in its language. */
export const texts = JSON.parse(board.dataset.texts);

export const filled = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);

/** `one` has words of its own. */
export const counted = (number, one, many) => (number === 1 ? texts[one] : filled(texts[many], { n: number }));

/** A `Problem` in words: what happened and what to do. */
export const sentence = (problem) => inWords(texts, problem);

/** For those who listen; nobody sees it. */
export const say = (text) => ($("said").textContent = text);

/** Not `disabled`: that would throw the keyboard's focus away. */
export function setBusy(button, isBusy) {
  button.setAttribute("aria-busy", isBusy);
  button.setAttribute("aria-disabled", isBusy);
}

export const isBusy = (button) => button.getAttribute("aria-busy") === "true";

let aheadMs = 0;
/** The server's time in ms since the epoch, known after the first answer: to measure its events against. */
export const now = () => Date.now() + aheadMs;

/**
 * Read a route; rejects with what `sentence` takes.
 *
 * The client's own `request` is more patient; it comes with what hands do, when there are any: the first view only
 * reads.
 */
export async function read(path) {
  let answer;
  let text;
  try {
    ({ answer, text } = await exchange(path, {}, { isRepeatable: true }));
    const found = JSON.parse(text);
    // The header counts whole seconds, cut off: half a second more is right on the average.
    aheadMs = Date.parse(answer.headers.get("date")) + 500 - Date.now() || 0;
    if (answer.ok) return found;
    answer.code = found.code;
  } catch {
    answer = { status: 0, code: "network", headers: new Headers() };
  }
  const { status, code, headers } = answer;
  throw { status, code, requestId: headers.get("x-request-id"), retryAfterS: headers.get("retry-after") };
}
