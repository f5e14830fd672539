/** Files on their way to the project: a few at a time, each with its own progress, until all of them are there. */

import { create, Problem } from "./nanohook.js";
import { board } from "./saying.js";

/** As many as the service takes of one person. */
const MOST = 4;
const mostBytes = Number(board.dataset.mostBytes);
/** When a service that has too much to do does not say how long. */
const BUSY_S = 2;
const waiting = [];
let running = 0;
/** All wait: the service has taken as many as it does for now. */
let isPaused = false;

/**
 * Send `file`; resolves to its job. `progress` hears the share, 0 to 1, once it is its turn; `null` while it waits.
 *
 * A file that is too large is refused here: a server that refuses by size hangs up in the middle, and the browser
 * would only see a broken connection.
 */
export function send(file, { progress, signal }) {
  if (file.size > mostBytes) return Promise.reject(new Problem({ status: 413, code: "too_large" }));
  return new Promise((resolve, reject) => {
    waiting.push({ file, progress, signal, resolve, reject });
    next();
  });
}

function next() {
  while (!isPaused && running < MOST && waiting.length) start(waiting.shift());
}

async function start(sending) {
  const { file, progress, signal, resolve, reject } = sending;
  running += 1;
  try {
    signal.throwIfAborted();
    progress(0);
    // Tried again from here: while one is too much for the service, the others are as well.
    resolve(await create(file, { projectId: board.dataset.project, progress, signal, tries: 1 }));
  } catch (problem) {
    if (problem.status === 429 || problem.status === 503) {
      waiting.unshift(sending);
      progress(null);
      pause(problem.retryAfterS ?? BUSY_S);
    } else reject(problem);
  } finally {
    running -= 1;
    next();
  }
}

function pause(seconds) {
  if (isPaused) return;
  isPaused = true;
  setTimeout(() => {
    isPaused = false;
    next();
  }, seconds * 1000);
}

addEventListener("beforeunload", (event) => {
  if (running || waiting.length) event.preventDefault();
});
