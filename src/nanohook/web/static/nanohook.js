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
 *     // … `stream.busy` while it runs, and `stream.close()` when nobody looks any more.
 *
 * For pages of the service's own origin: the session cookie says who asks. A page of another origin has the same verbs
 * from `connect({ base, key })`. Every verb but `follow` rejects with a `Problem`; nothing here knows the page, and
 * nothing here gives up on a job because it takes long.
 */

import { openStream } from "./event-stream.js";
import { exchange } from "./exchange.js";

export const FINAL = new Set(["COMPLETED", "FAILED", "CANCELED"]);
const DENIALS = new Set([401, 403]);

const UPLOAD_MS = 120_000;
const MOST_TRIES = 4;
const FIRST_JITTER_MS = 500;
/** Somebody looks on: a server that asks for more than this is told of, not waited for. */
const MOST_RETRY_AFTER_S = 10;
const MOST_JOBS = 100;

/** An answer that is no success. `status` is 0 and `code` is `network` where no answer came at all. */
export class Problem extends Error {
  constructor({ status, code, detail, requestId = null, retryAfterS = null, cause }) {
    super(detail || code, { cause });
    this.name = "Problem";
    Object.assign(this, { status, code, requestId, retryAfterS });
  }
}

/**
 * The verbs, for a service at `base` (`https://host`; empty: the page's own origin) and an API key.
 *
 * An event source cannot send the key: `follow` gets tokens by it, or from `streamToken` where a page holds no key,
 * `async (jobId | null) => ({ token, expires_at })`.
 *
 * All but an upload is sent again when a connection broke, and everything at 429 and 503, when nothing was kept: after
 * the server's `Retry-After` and a jittered pause. What reads, or has a key, is sent once more after 5 s of silence. What may cost money goes under an `idempotencyKey`, a new one for each
 * call; a `Problem` carries it, so that the same can be asked for once more and is still bought once.
 */
export function connect({ base = "", key = null, streamToken = null } = {}) {
  const host = { base: base.replace(/\/+$/, ""), key, aheadMs: 0 };
  const ownToken = (jobId) => ask(host, "POST", "/api/events/token", jobId ? { job_id: jobId } : {});
  host.token = streamToken ?? (key && ownToken);
  const order = async (path, wish, idempotencyKey) => {
    try {
      return await patiently(() => ask(host, "POST", path, wish, { "Idempotency-Key": idempotencyKey }));
    } catch (problem) {
      // Whoever asks for the same once more, with no answer to the first, asks under the same key.
      throw Object.assign(problem, { idempotencyKey });
    }
  };
  const several = (path, jobIds, { keepalive = false } = {}) =>
    patiently(() => ask(host, "POST", path, { job_ids: jobIds }, {}, { keepalive }));
  const get = (path) => patiently(() => ask(host, "GET", path));
  return {
    /** The server's time in ms since the epoch, known after its first answer: to measure its events against. */
    now: () => Date.now() + host.aheadMs,

    /**
     * Upload a picture; resolves to its job, for which nothing is asked yet. `progress` hears the share, 0 to 1; it is
     * sent `tries` times at most.
     */
    create: (file, { projectId, progress, signal, tries } = {}) =>
      patiently(() => upload(host, file, { projectId, progress, signal }), { isRepeatable: false, signal, tries }),

    /** Ask for a change: `{ imageId, prompt, model?, … }` as `POST /api/generate-image` takes it; paid once. */
    generate: (wish, { idempotencyKey = newKey() } = {}) => order("/api/generate-image", wish, idempotencyKey),

    /** The whole job: original, pictures, prompt, error. */
    job: (jobId) => get(address(jobId)),

    /** How far it is; `follow` tells it without being asked again. */
    status: (jobId) => get(address(jobId, "/status")),

    /** A completed job's pictures, with fresh addresses. */
    result: (jobId) => get(address(jobId, "/result")),

    cancel: (jobId) => patiently(() => ask(host, "POST", address(jobId, "/cancel"))),

    /** The next attempt of a job that failed. `buyAgain`: accept to pay for a task that may be paid already. */
    retry: (jobId, { buyAgain = false, idempotencyKey = newKey() } = {}) =>
      order(address(jobId, "/retry"), buyAgain ? { buy_again: true } : {}, idempotencyKey),

    follow: (jobs, handlers) => listen(host, jobs, handlers),

    /** Delete up to 200 jobs; resolves to `{ done, refused: [{ job_id, code }] }`. `keepalive`: even if the page goes. */
    deleteMany: (jobIds, how) => several("/api/images/delete", jobIds, how),

    /** Take deletions back, as `deleteMany` takes and gives it. */
    restoreMany: (jobIds, how) => several("/api/images/restore", jobIds, how),

    /** Any other route of the service; `body` is sent as JSON, or as the `FormData` that it is. */
    request: (method, path, body) =>
      patiently(() => ask(host, method, path, body), { isRepeatable: method !== "POST" }),
  };
}

export const { now, create, generate, job, status, result, cancel, retry, follow, deleteMany, restoreMany, request } =
  connect();

/** XMLHttpRequest, since `fetch` cannot tell how much has left. */
function upload(host, file, { projectId, progress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const fail = (cause) => reject(noAnswer(cause));
    request.open("POST", `${host.base}/api/images`);
    for (const [name, value] of Object.entries(introduced(host))) request.setRequestHeader(name, value);
    request.responseType = "text";
    request.timeout = UPLOAD_MS;
    request.upload.onprogress = (event) => event.lengthComputable && progress?.(event.loaded / event.total);
    request.onload = () => {
      const header = (name) => request.getResponseHeader(name);
      try {
        resolve(answered(host, request.status, header, request.response));
      } catch (problem) {
        reject(problem);
      }
    };
    request.onerror = request.ontimeout = fail;
    request.onabort = () => reject(new DOMException("the upload was stopped", "AbortError"));
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    const body = new FormData();
    body.append("file", file, file.name || "picture");
    if (projectId) body.append("project_id", projectId);
    request.send(body);
  });
}

/**
 * Hear what happens to a job, or to up to 100 of them, until their end.
 *
 * Handlers, all optional: `status(event)`, the present state first; `deleted(jobId)`; `reset()`: forget what is shown,
 * the present state follows; `denied(problem)`: signed out; `link(state)`: `live`, `reconnecting` or `offline`.
 * A break of any length only delays: the cursor brings what was missed, once each and in order. Where something in
 * between lets no stream through, the jobs' states are asked for instead, and a state may be passed over.
 *
 * What comes back has `pending`, how many of the jobs have not ended; `busy`, whether any; and `close()`.
 */
function listen(host, followed, handlers = {}) {
  let ids = [...new Set([followed].flat())];
  if (ids.length > MOST_JOBS) throw new RangeError(`a stream takes ${MOST_JOBS} jobs at most`);
  const running = new Set(ids);
  /** The newest event that was told of each job, as far as it is known. */
  const told = new Map();
  let token = null;
  let stream = null;

  const close = () => {
    running.clear();
    stream?.close();
  };

  const drop = (gone) => {
    ids = ids.filter((id) => !gone.includes(id));
    for (const id of gone) running.delete(id);
  };

  const note = (state, id) => {
    if (id) told.set(state.job_id, id);
    if (FINAL.has(state.status)) running.delete(state.job_id);
    else running.add(state.job_id);
  };

  const url = async (query) => {
    const isOne = ids.length === 1;
    if (host.token) {
      if (!(Date.parse(token?.expires_at) > Date.now() + host.aheadMs)) token = await host.token(isOne ? ids[0] : null);
      query.set("token", token.token);
    }
    for (const id of isOne ? [] : ids) query.append("job", id);
    return `${host.base}${isOne ? address(ids[0], "/events") : "/api/events"}?${query}`;
  };

  const denied = (problem) => {
    if (!DENIALS.has(problem.status)) return false;
    close();
    handlers.denied?.(problem);
    return true;
  };

  /** Ask how the jobs are, and tell what no event has told; resolves to how long the service wants to be left alone. */
  const look = async (isRefused) => {
    if (isRefused) token = null;
    // Without a key nobody can be asked: the next token, or its denial, tells.
    if (host.token && !host.key) return 0;
    let found;
    try {
      found = await states(host, ids, told);
    } catch (problem) {
      denied(problem);
      return problem.retryAfterS ?? 0;
    }
    const gone = ids.filter((id) => !found.some(({ job_id: other }) => other === id));
    const news = found.filter(({ job_id: id, event_id: eventId }) =>
      // Of an end that came without an id it is not known whether this is another one.
      told.has(id) ? eventId > told.get(id) : running.has(id),
    );
    drop(gone);
    for (const each of news) note(each, each.event_id);
    if (running.size === 0) close();
    for (const id of gone) handlers.deleted?.(id);
    for (const each of news) handlers.status?.({ ...each, at: each.updated_at });
    return 0;
  };

  const onStatus = (event, id) => {
    // What was asked for meanwhile is newer than what was held back on its way.
    if (id ? id <= told.get(event.job_id) : told.has(event.job_id)) return;
    note(event, id);
    handlers.status?.(event);
  };
  const onDeleted = ({ job_id: gone }) => {
    drop([gone]);
    // The address still names it, and would be refused from now on.
    if (ids.length) stream.open();
    else close();
    handlers.deleted?.(gone);
  };
  const onReset = () => {
    told.clear();
    handlers.reset?.();
  };

  if (ids.length) {
    stream = openStream({
      url,
      on: { status: onStatus, deleted: onDeleted, reset: onReset },
      parse: (text) => parsed(host, text),
      look,
      link: handlers.link,
      isOver: () => running.size === 0,
      denied,
    });
  }
  return {
    close,
    get pending() {
      return running.size;
    },
    get busy() {
      return running.size > 0;
    },
  };
}

/** How jobs are; those that are gone are left out. Only what is newer than `told` comes whole. */
async function states(host, ids, told) {
  if (ids.length > 1) return (await ask(host, "GET", `/api/images?limit=${MOST_JOBS}&ids=${ids.map(encodeURIComponent)}`)).images;
  const [id] = ids;
  try {
    const state = await ask(host, "GET", address(id, "/status"));
    return [state.event_id > (told.get(id) ?? 0) ? await ask(host, "GET", address(id)) : state];
  } catch (problem) {
    if (problem.status === 404) return [];
    throw problem;
  }
}

/** Root-relative, and safe for an id that came from an address bar. */
const address = (jobId, rest = "") => `/api/images/${encodeURIComponent(jobId)}${rest}`;

/** A key for one order; only secure contexts have the first. */
export const newKey = () =>
  crypto.randomUUID?.() ??
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Try `once` until it is answered, as `connect` says. */
async function patiently(once, { isRepeatable = true, signal, tries: most = MOST_TRIES } = {}) {
  for (let tries = 1; ; tries++) {
    signal?.throwIfAborted();
    try {
      return await once();
    } catch (problem) {
      if (tries === most || !isPassing(problem, isRepeatable)) throw problem;
      const jitterMs = Math.random() * FIRST_JITTER_MS * 2 ** (tries - 1);
      const askedMs = (problem.retryAfterS ?? 0) * 1000;
      await new Promise((resolve) => setTimeout(resolve, askedMs + jitterMs));
    }
  }
}

function isPassing({ status, code, retryAfterS, cause }, isRepeatable) {
  // Who is offline, or has waited for half a minute, is told so.
  if (status === 0) return isRepeatable && navigator.onLine && cause?.name !== "TimeoutError";
  // `in_progress`: an earlier try broke on its way back, and the server still works on it.
  return (status === 429 || status === 503 || code === "in_progress") && !(retryAfterS > MOST_RETRY_AFTER_S);
}

/** The server's sentences come in the page's language, which may differ from the browser's. */
const introduced = ({ key }) => ({
  "Accept-Language": document.documentElement.lang || navigator.language,
  ...(key && { Authorization: `Bearer ${key}` }),
});

async function ask(host, method, path, body, headers, how) {
  const isForm = body instanceof FormData;
  const request = {
    method,
    headers: { ...introduced(host), ...headers, ...(body && !isForm && { "Content-Type": "application/json" }) },
    body: body && !isForm ? JSON.stringify(body) : body,
    ...how,
  };
  // By its key an order that arrived is known again.
  const isRepeatable = method === "GET" || !!headers?.["Idempotency-Key"];
  const { answer, text } = await exchange(host.base + path, request, {
    isRepeatable,
    ...(isForm && { patienceMs: UPLOAD_MS }),
  }).catch((cause) => {
    throw noAnswer(cause);
  });
  return answered(host, answer.status, (name) => answer.headers.get(name), text);
}

function answered(host, status, header, text) {
  const date = Date.parse(header("date"));
  // The header counts whole seconds, cut off: half a second more is right on the average.
  if (date) host.aheadMs = date + 500 - Date.now();
  let content = {};
  try {
    content = parsed(host, text);
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

/** The addresses of pictures are root-relative: of the service, not of a page elsewhere. */
const parsed = ({ base }, text) =>
  JSON.parse(text, (name, value) =>
    base && /^(thumbnail_)?url$/.test(name) && value?.startsWith?.("/") ? base + value : value,
  );

const noAnswer = (cause) => new Problem({ status: 0, code: "network", detail: "no answer came", cause });
