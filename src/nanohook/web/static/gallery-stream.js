/** What happens to the jobs of a gallery, over one stream; and what no stream tells, asked for. */

import * as cards from "./card.js";
import { openStream } from "./event-stream.js";
import { all, byId, count, firstPage, isFiltered, load, put, remove, toasts } from "./gallery.js";
import { isWaiting } from "./job-words.js";
import { $, board, filled, read, say, texts } from "./saying.js";

const REST_MS = 300;
/** A stream ends every few minutes and comes back at once: shorter breaks than this are nobody's business. */
const BREAK_MS = 5_000;
const PLACE_EVERY_MS = 5_000;
const MAX_IDS = 100;
const RAN = `nanohook.ran.${board.dataset.project}`;

/** Jobs that were heard of and are not shown; and how many answers may still bring one of them. */
const unknown = new Set();
const elsewhere = new Set();
let expected = 0;
let seekTimer = 0;

/** Deletions that were heard of, by job: an answer may have been read before. */
const deletions = new Map();
const isDeleted = (job) => deletions.get(job.job_id) > job.event_id;

/** While an answer is on its way that brings a job of our own, that job is not looked for. */
export async function expecting(answer) {
  expected += 1;
  try {
    return await answer;
  } finally {
    expected -= 1;
    seekSoon();
  }
}

function seekSoon() {
  clearTimeout(seekTimer);
  if (unknown.size && !expected) seekTimer = setTimeout(seek, REST_MS);
}

/** Another tab, or another program, has made something: it may belong here. */
async function seek() {
  const heard = [...unknown].filter((id) => !byId(id));
  unknown.clear();
  if (!heard.length) return;
  const found = await firstPage().catch(() => null);
  found?.filter((job) => heard.includes(job.job_id) && !isDeleted(job)).forEach(put);
  // Behind a filter it may come to fit.
  if (!isFiltered()) for (const id of heard) if (!byId(id)) elsewhere.add(id);
  count();
}

function onStatus(event, id) {
  const card = byId(event.job_id);
  if (!card) {
    if (!elsewhere.has(event.job_id)) unknown.add(event.job_id);
    return seekSoon();
  }
  const before = cards.kindOf(card);
  if (!cards.learn(card, event, id)) return;
  console.info(`[image ${event.job_id}] ${event.status} ${event.progress} % ${event.stage}`);
  const after = cards.kindOf(card);
  if (after === before) return;
  // Somebody elsewhere wished for something; events do not tell what.
  if (before === "new" && !card.isAsking) read(`/api/images/${event.job_id}`).then(put, () => {});
  count();
  remember();
  if (after === "ready") celebrate(1, "one_ready", "many_ready");
  else if (after === "failed") say(filled(texts.one_failed, { why: card.part("fault").textContent }));
}

function onDeleted({ job_id: jobId }, id) {
  const card = byId(jobId);
  deletions.set(jobId, id);
  if (card && isDeleted(card.job)) remove(card);
  count();
}

const celebrate = async (...words) => (await toasts()).celebrate(...words);

/** Keep what runs, for the next opening of this page: it tells what ended in between. */
export function remember() {
  localStorage.setItem(RAN, JSON.stringify(all().filter(cards.isRunning).map(({ job }) => job.job_id)));
}

function recall() {
  const ended = JSON.parse(localStorage.getItem(RAN) ?? "[]").filter((id) => byId(id)?.job.status === "COMPLETED");
  if (ended.length) celebrate(ended.length, "one_away", "many_away");
  remember();
}

/** Follow what happens after the event `cursor`, to the end of the page. */
export function follow(cursor) {
  recall();
  const url = (query) => `/api/events?${query}`;
  const on = { status: onStatus, deleted: onDeleted, reset: load };
  const stream = openStream({ cursor, url, on, link: showLink, look: () => look(stream) });
  setInterval(askPlace, PLACE_EVERY_MS);
}

/** How everything is that is shown here, for when no stream tells; it tells as well whether one is still logged in. */
async function look(stream) {
  try {
    const listed = await firstPage();
    const rest = all().filter((card) => cards.isRunning(card) && !listed?.some((job) => job.job_id === card.job.job_id));
    const ids = rest.slice(0, MAX_IDS).map((card) => card.job.job_id);
    const others = ids.length ? (await read(`/api/images?limit=${MAX_IDS}&ids=${ids}`)).images : [];
    for (const job of [...(listed ?? []), ...others]) {
      if (isDeleted(job)) continue;
      const card = byId(job.job_id);
      if (card?.job.event_id < job.event_id) onStatus(job, job.event_id);
      else if (card || listed?.includes(job)) put(job);
    }
    return 0;
  } catch (problem) {
    if (problem.status === 401 || problem.status === 403) {
      stream.close();
      (await toasts()).fail(problem);
    }
    return Number(problem.retryAfterS);
  }
}

/** No event tells the place in line, nor why everybody waits. One is asked at a time: how often is limited. */
async function askPlace() {
  const waiting = all().filter(({ job }) => isWaiting(job));
  const [card] = waiting.sort((one, other) => (one.askedAt ?? 0) - (other.askedAt ?? 0));
  if (!card) return;
  card.askedAt = Date.now();
  const found = await read(`/api/images/${card.job.job_id}/status`).catch(() => null);
  if (!found) return;
  onStatus(found, found.event_id);
  for (const other of waiting) {
    // What holds one up holds up all.
    if (isWaiting(other.job)) other.job.message = found.message;
    cards.render(other);
  }
}

let breakTimer = 0;
function showLink(state) {
  clearTimeout(breakTimer);
  const show = () => {
    $("link").hidden = false;
    $("link").dataset.link = state;
    $("link").textContent = texts[state];
  };
  if (state === "reconnecting") breakTimer = setTimeout(show, BREAK_MS);
  else show();
}
