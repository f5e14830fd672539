/**
 * A request and its answer, over connections that may be dead without a sign.
 *
 * A browser keeps connections open for what is asked next, and nobody tells it when one dies on the way: the machine
 * slept, a router forgot. What is asked over such a one waits for ever.
 */

/** Until the first try of what may be sent again is given up: a slow answer is asked for twice, and loses nothing. */
const FIRST_MS = 5_000;
/** Until an answer begins otherwise; and from then on until it has ended. */
const ANSWER_MS = 30_000;
const PROBE_MS = 5_000;
/** To one host. Source: Chromium, kDefaultMaxSocketsPerGroup; the others keep as many. */
const CONNECTIONS = 6;

/**
 * Send a request as `fetch` does; resolves to its `answer` and the `text` of it, rejects where none comes in time.
 *
 * One that `isRepeatable` is sent once more when nothing came in 5 s.
 */
export async function exchange(url, init, { isRepeatable = false, patienceMs = ANSWER_MS } = {}) {
  if (!isRepeatable) return once(url, init, patienceMs);
  try {
    return await once(url, init, FIRST_MS);
  } catch (problem) {
    if (problem.name !== "TimeoutError") throw problem;
  }
  await clearDead(new URL("/healthz", new URL(url, location)));
  return once(url, init, patienceMs);
}

async function once(url, init, firstMs) {
  const stop = new AbortController();
  const after = (ms) => setTimeout(() => stop.abort(new DOMException("no answer came", "TimeoutError")), ms);
  let timer = after(firstMs);
  try {
    const answer = await fetch(url, { ...init, signal: stop.signal });
    clearTimeout(timer);
    timer = after(ANSWER_MS);
    return { answer, text: await answer.text() };
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Have the browser drop its dead connections: it asks over each of those it has before it opens another.
 *
 * The one that timed out is closed by now, so there is room for one that lives. What it is asked costs nothing.
 */
async function clearDead(url) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), PROBE_MS);
  const probe = () => fetch(url, { cache: "no-store", signal: stop.signal });
  // Whatever becomes of them, the request itself tells.
  await Promise.any(Array.from({ length: CONNECTIONS }, probe)).catch(() => {});
  clearTimeout(timer);
  stop.abort();
}
