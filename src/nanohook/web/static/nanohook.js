/**
 * nanohook in the browser: `create` a job of a picture, `generate`, `follow`, take the `result`.
 *
 *     import * as nanohook from "/static/nanohook.js";
 *
 *     const { job_id } = await nanohook.create(file);
 *     await nanohook.generate({ imageId: job_id, prompt: "a winter evening" });
 *     const stream = nanohook.follow(job_id, {
 *       status: (event) => console.log(event.stage, event.progress, event.images),
 *     });
 *     // … and `stream.close()` when nobody looks any more.
 *
 * For pages of the service's own origin: the session cookie says who asks. Every verb but `follow` rejects with a
 * `Problem`; nothing here knows the page, and nothing here gives up on a job because it takes long.
 */

export const FINAL = new Set(["COMPLETED", "FAILED", "CANCELED"]);

const REQUEST_MS = 30_000;
const UPLOAD_MS = 120_000;
const FIRST_PAUSE_MS = 1_000;
const MOST_PAUSE_MS = 30_000;

/** How far the server's clock is ahead of ours, in ms: known after the first answer. */
let aheadMs = 0;

/** The server's time in ms since the epoch, to measure its events against. */
export const now = () => Date.now() + aheadMs;

/** An answer that is no success. `status` is 0 and `code` is `network` where no answer came at all. */
export class Problem extends Error {
  constructor({ status, code, detail, requestId = null, retryAfterS = null, cause }) {
    super(detail || code, { cause });
    this.name = "Problem";
    Object.assign(this, { status, code, requestId, retryAfterS });
  }
}

/**
 * Upload a picture; resolves to its job, for which nothing is asked yet.
 *
 * `progress` hears the share that has left, 0 to 1. XMLHttpRequest, since `fetch` cannot tell that.
 */
export function create(file, { progress, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const fail = (cause) => reject(noAnswer(cause));
    request.open("POST", "/api/images");
    request.setRequestHeader("Accept-Language", language());
    request.responseType = "text";
    request.timeout = UPLOAD_MS;
    request.upload.onprogress = (event) => event.lengthComputable && progress?.(event.loaded / event.total);
    request.onload = () => {
      const header = (name) => request.getResponseHeader(name);
      try {
        resolve(answered(request.status, header, request.response));
      } catch (problem) {
        reject(problem);
      }
    };
    request.onerror = request.ontimeout = fail;
    request.onabort = () => reject(new DOMException("the upload was stopped", "AbortError"));
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    const body = new FormData();
    body.append("file", file, file.name || "picture");
    request.send(body);
  });
}

/** Ask for a change: `{ imageId, prompt, model?, … }` as `POST /api/generate-image` takes it. */
export const generate = (wish) => ask("POST", "/api/generate-image", wish);

/** The whole job: original, pictures, prompt, error. */
export const job = (jobId) => ask("GET", address(jobId));

/** A completed job's pictures, with fresh addresses. */
export const result = (jobId) => ask("GET", address(jobId, "/result"));

export const cancel = (jobId) => ask("POST", address(jobId, "/cancel"));

/** The next attempt of a job that failed. `buyAgain`: accept to pay for a task that may be paid already. */
export const retry = (jobId, { buyAgain = false } = {}) =>
  ask("POST", address(jobId, "/retry"), buyAgain ? { buy_again: true } : {});

/**
 * Hear what happens to a job until its end.
 *
 * Handlers, all optional: `status(event)`, the present state first; `deleted()`; `reset()`: forget what is shown, the
 * present state follows; `denied(problem)`: signed out; `link(state)`: `live`, `reconnecting` or `offline`.
 * A break of any length only delays: the cursor brings what was missed, once each and in order.
 */
export function follow(jobId, handlers = {}) {
  let source = null;
  let cursor = "";
  let newest = null;
  let pauses = 0;
  let timer = 0;
  let isClosed = false;
  let shown = "";

  const link = (state) => {
    if (state !== shown && !isClosed) handlers.link?.((shown = state));
  };

  const close = () => {
    isClosed = true;
    clearTimeout(timer);
    source?.close();
    removeEventListener("online", onOnline);
    removeEventListener("offline", onOffline);
  };

  const open = () => {
    clearTimeout(timer);
    source?.close();
    const after = cursor && `?last_event_id=${encodeURIComponent(cursor)}`;
    source = new EventSource(address(jobId, "/events") + after);
    source.onopen = () => {
      pauses = 0;
      link("live");
    };
    source.onerror = onError;
    source.addEventListener("status", (event) => {
      cursor = event.lastEventId || cursor;
      newest = JSON.parse(event.data);
      handlers.status?.(newest);
    });
    source.addEventListener("reset", () => {
      cursor = "";
      handlers.reset?.();
    });
    source.addEventListener("deleted", () => {
      close();
      handlers.deleted?.();
    });
  };

  const onError = () => {
    if (isClosed) return;
    const isOver = newest && FINAL.has(newest.status);
    if (source.readyState === EventSource.CLOSED) {
      // 204 after the last event is the server's "that was all"; any other refusal needs a closer look.
      if (isOver) close();
      else look();
    } else if (!isOver) {
      // The platform comes back by itself. The end of an ended job's stream is no break, so it shows none.
      link(navigator.onLine ? "reconnecting" : "offline");
    }
  };

  /** EventSource hides why it was refused, and stops for good: ask in a way that tells. */
  const look = async () => {
    link(navigator.onLine ? "reconnecting" : "offline");
    try {
      const found = await job(jobId);
      if (isClosed) return;
      if (FINAL.has(found.status)) {
        close();
        handlers.status?.({ ...found, at: found.updated_at });
        return;
      }
    } catch (problem) {
      if (isClosed) return;
      if (problem.status === 404) {
        close();
        handlers.deleted?.();
        return;
      }
      if (problem.status === 401 || problem.status === 403) {
        close();
        handlers.denied?.(problem);
        return;
      }
    }
    // Doubling pauses with full jitter: after a restart not everybody comes back in the same moment.
    const most = Math.min(MOST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** pauses++);
    timer = setTimeout(open, FIRST_PAUSE_MS + Math.random() * most);
  };

  const onOffline = () => link("offline");
  const onOnline = () => {
    link("reconnecting");
    // What the platform waits for may be half-open for minutes after a change of network.
    open();
  };

  addEventListener("online", onOnline);
  addEventListener("offline", onOffline);
  open();
  return { close };
}

/** Root-relative, and safe for an id that came from an address bar. */
const address = (jobId, rest = "") => `/api/images/${encodeURIComponent(jobId)}${rest}`;

/** The server's sentences come in the page's language, which may differ from the browser's. */
const language = () => document.documentElement.lang || navigator.language;

async function ask(method, path, body) {
  let answer;
  let text;
  try {
    answer = await fetch(path, {
      method,
      headers: { "Accept-Language": language(), ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(REQUEST_MS),
    });
    text = await answer.text();
  } catch (cause) {
    throw noAnswer(cause);
  }
  return answered(answer.status, (name) => answer.headers.get(name), text);
}

function answered(status, header, text) {
  const date = Date.parse(header("date"));
  // The header counts whole seconds, cut off: half a second more is right on the average.
  if (date) aheadMs = date + 500 - Date.now();
  let content = {};
  try {
    content = JSON.parse(text);
  } catch {
    // A proxy's HTML: the status has to do.
  }
  if (status >= 200 && status < 300) return content;
  throw new Problem({
    status,
    code: content.code ?? "unknown",
    detail: content.detail,
    requestId: header("x-request-id"),
    retryAfterS: Number(header("retry-after")) || null,
  });
}

const noAnswer = (cause) => new Problem({ status: 0, code: "network", detail: "no answer came", cause });
