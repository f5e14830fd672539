/** What a click may buy is bought once, even if its answer never arrives: by a key that belongs to the click. */

import { newKey } from "./nanohook.js";

const PREFIX = "nanohook.click.";
/** Refusals that may come to a second try whatever became of the first: nobody has looked at its key by then. */
const UNDECIDED = [401, 403, 408, 425, 429];

/**
 * Let `send(key)` ask for `what`, such as `["generate", wish]`.
 *
 * Until there is a definite answer, the same wish has the same key: for a second click, and after a reload as well.
 */
export async function once(what, send) {
  const name = PREFIX + JSON.stringify(what);
  const key = sessionStorage.getItem(name) ?? newKey();
  sessionStorage.setItem(name, key);
  try {
    const answer = await send(key);
    sessionStorage.removeItem(name);
    return answer;
  } catch (problem) {
    if (isDefinite(problem)) sessionStorage.removeItem(name);
    throw problem;
  }
}

const isDefinite = ({ status, code }) =>
  status >= 400 && status < 500 && !UNDECIDED.includes(status) && code !== "in_progress";
