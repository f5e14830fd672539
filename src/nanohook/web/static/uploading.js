/** Files on their way to the project: a few at a time, each with its own progress, each tried again by itself. */

import { create, Problem } from "./nanohook.js";
import { board } from "./saying.js";

/** As many as the service takes of one person. */
const MOST = 4;
const mostBytes = Number(board.dataset.mostBytes);
const waiting = [];
let running = 0;

/**
 * Send `file`; resolves to its job. `progress` hears the share, 0 to 1, once it is its turn.
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
  while (running < MOST && waiting.length) start(waiting.shift());
}

async function start({ file, progress, signal, resolve, reject }) {
  running += 1;
  try {
    signal.throwIfAborted();
    progress(0);
    resolve(await create(file, { projectId: board.dataset.project, progress, signal }));
  } catch (problem) {
    reject(problem);
  } finally {
    running -= 1;
    next();
  }
}

addEventListener("beforeunload", (event) => {
  if (running) event.preventDefault();
});
