/** What hands do in the gallery: upload, generate, stop, look, delete and take that back, several at once. */

import * as client from "./nanohook.js";
import * as cards from "./card.js";
import { add, all, cardOf, count, focus, leaving, press, put, remove, showPicked } from "./gallery.js";
import { expecting, remember } from "./gallery-stream.js";
import { followHands } from "./hands.js";
import { once } from "./idempotency.js";
import { $, board, counted, filled, isBusy, read, say, sentence, setBusy, texts } from "./saying.js";
import { fail, toast } from "./toasts.js";
import { send } from "./uploading.js";

const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/static/deeds.css" });
document.head.append(style);
await new Promise((resolve) => (style.onload = style.onerror = resolve));

/** Jobs that one request may name, to delete or restore and to list. */
const MAX_CHANGED = 200;
const MAX_LISTED = 100;
/** Statuses of an upload that is refused for what it is: sending it again would not help. */
const USELESS = [413, 415, 422];
const mostInZip = Number(board.dataset.mostZip);
const picked = () => all().filter((card) => card.pick.checked);

const pieces = (things, size) =>
  Array.from({ length: Math.ceil(things.length / size) }, (_, place) => things.slice(place * size, (place + 1) * size));

/* ---- pictures come ---- */

export function take(files) {
  for (const file of files) {
    const card = cards.make({ file });
    add(card, $("grid").firstElementChild);
    upload(card);
  }
}

function upload(card) {
  card.refusal = card.share = null;
  card.stop = new AbortController();
  const progress = (share) => {
    card.share = share;
    cards.render(card);
  };
  const sending = send(card.file, { progress, signal: card.stop.signal });
  /** Resolves to whether it has arrived. */
  card.arrival = expecting(sending.then(
    (job) => {
      cards.learn(card, job, job.event_id);
      count();
      return true;
    },
    (problem) => {
      if (problem.name === "AbortError") return false;
      card.refusal = { text: sentence(problem), isFinal: USELESS.includes(problem.status) };
      cards.render(card);
      say(`${card.file.name}: ${card.refusal.text}`);
      return false;
    },
  ));
  cards.render(card);
}

/* ---- one picture ---- */

/** Do what the main button says, which shows itself busy already. */
export async function go(card, isRetry) {
  if (card.refusal) return card.refusal.isFinal ? remove(card) : upload(card);
  try {
    if (card.job || (await card.arrival)) await expecting(isRetry ? repeat(card) : order(card));
  } catch (problem) {
    if (problem.code === "may_be_paid") card.paysAgain = true;
    else fail(problem);
  } finally {
    card.isAsking = false;
    cards.render(card);
    remember();
  }
}

/** Have the whole of a prompt that a list has cut; until it is there nobody types into its beginning. */
async function complete(card) {
  if (card?.job?.prompt_truncated) cards.complete(card, await client.job(card.job.job_id));
}

const onFocus = ({ target }) => target.matches("textarea") && complete(cardOf(target)).catch(fail);
$("grid").addEventListener("focusin", onFocus);
// What brought this module here may have been that focus.
onFocus({ target: document.activeElement ?? document.body });

async function repeat(card) {
  const { job_id: id, error, attempt } = card.job;
  const buyAgain = card.paysAgain || error?.code === "unknown_outcome";
  try {
    const click = ["retry", id, attempt, buyAgain];
    await once(click, (idempotencyKey) => client.retry(id, { buyAgain, idempotencyKey }));
  } catch (problem) {
    // Somebody, in another tab perhaps, was faster: their attempt is as good.
    if (problem.code !== "not_failed") throw problem;
  }
  put(await client.job(id));
}

async function order(card) {
  await complete(card);
  const wish = { imageId: card.job.job_id, prompt: card.prompt.value.trim() };
  const asking = once(["generate", wish], (idempotencyKey) => client.generate(wish, { idempotencyKey }));
  const accepted = await asking.catch((problem) => {
    // The first answer got lost on the way, or another tab has asked: it runs.
    if (problem.code === "job_running") return card.job;
    throw problem;
  });
  const made = put(await client.job(accepted.job_id));
  count();
  if (made === card) return;
  // Another version of an ended one is a picture of its own.
  card.prompt.value = card.job.prompt ?? "";
  card.prompt.dispatchEvent(new Event("input"));
  focus(made);
}

export async function stop(card) {
  try {
    const { job: before } = card;
    const job = await client.cancel(before.job_id);
    const kept = cards.kept(before, job);
    put(job);
    if (kept) toast(kept);
  } catch (problem) {
    // It ended a moment before: the stream tells how.
    if (problem.code !== "job_ended") fail(problem);
  }
}

export async function look(card) {
  if (!cards.shown(card)) return;
  const { open } = await import("./view.js");
  open(card, all().filter(cards.shown), focus);
}

/* ---- gone, and back ---- */

/** Takes the last deletion back. */
let takeBack = null;

export const bin = (card) => drop([card]);

function drop(chosen) {
  const jobs = chosen.map((card) => card.job).filter(Boolean);
  const kept = jobs.map((job) => cards.kept(job)).find(Boolean) ?? "";
  for (const card of chosen) {
    card.stop?.abort();
    remove(card);
  }
  if (!jobs.length) return;
  for (const job of jobs) leaving.add(job.job_id);
  const told = toast(counted(jobs.length, "deleting_one", "deleting_many"), {
    kind: "busy",
    act: texts.undo,
    then: undo,
  });
  // On its way before anything else: it arrives even if the page is closed now.
  const gone = change(client.deleteMany, jobs).then(({ done, rest, problem }) => {
    for (const job of jobs) leaving.delete(job.job_id);
    rest.forEach(put);
    count();
    if (problem) fail(problem);
    if (!done.length) told.go();
    else told.tell([counted(done.length, "one_deleted", "many_deleted"), kept].filter(Boolean).join(". "), "");
    return done;
  });
  takeBack = async () => {
    told.go();
    const dropped = await gone;
    if (dropped.length) await expecting(bringBack(dropped));
  };
}

export function undo() {
  takeBack?.();
  takeBack = null;
}

async function bringBack(jobs) {
  const told = toast(counted(jobs.length, "restoring_one", "restoring_many"), { kind: "busy" });
  const { done, problem } = await change(client.restoreMany, jobs);
  const ids = done.map((job) => job.job_id);
  // As they are now: what was running has been canceled.
  const lists = pieces(ids, MAX_LISTED).map((some) => read(`/api/images?limit=${MAX_LISTED}&ids=${some}`));
  const found = await Promise.allSettled(lists);
  const newest = found.flatMap(({ value }) => value?.images ?? []);
  for (const job of done) put(newest.find(({ job_id: id }) => id === job.job_id) ?? job);
  count();
  if (problem) fail(problem);
  if (done.length) told.tell(counted(done.length, "one_restored", "many_restored"), "good");
  else told.go();
}

/** Do one thing with many jobs, a request for each piece of them; what the service did not do is the `rest`. */
async function change(verb, jobs) {
  const answers = await Promise.allSettled(
    pieces(jobs, MAX_CHANGED).map((some) => verb(some.map((job) => job.job_id), { keepalive: true })),
  );
  const done = new Set(answers.flatMap(({ value }) => value?.done ?? []));
  const gone = new Set(answers.flatMap(({ value }) => value?.refused ?? []).map((refused) => refused.job_id));
  return {
    done: jobs.filter((job) => done.has(job.job_id)),
    // What is refused is not there any more: somebody else was faster.
    rest: jobs.filter((job) => !done.has(job.job_id) && !gone.has(job.job_id)),
    problem: answers.find(({ reason }) => reason)?.reason,
  };
}

/* ---- several at once ---- */

function pickAll(isPicked) {
  for (const card of all()) card.pick.checked = isPicked && !!card.job;
  showPicked();
}

async function zip() {
  if (isBusy($("zip"))) return;
  const ready = picked().filter((card) => cards.kindOf(card) === "ready");
  if (!ready.length) return toast(texts.zip_nothing, { kind: "bad" });
  if (ready.length > mostInZip) return toast(filled(texts.zip_many, { n: mostInZip }), { kind: "bad" });
  const url = `/api/images.zip?${new URLSearchParams(ready.map(({ job }) => ["id", job.job_id]))}`;
  const told = toast(texts.zip_wait, { kind: "busy" });
  setBusy($("zip"), true);
  try {
    await check(url);
    Object.assign(document.createElement("a"), { href: url, download: "images.zip" }).click();
    told.tell(texts.zip_ready, "good");
  } catch (problem) {
    told.tell(sentence(problem), "bad");
  } finally {
    setBusy($("zip"), false);
  }
}

/** A download cannot say why it fails: its beginning is asked for, and told. */
async function check(url) {
  const stop = new AbortController();
  let answer;
  try {
    answer = await fetch(url, { signal: stop.signal });
  } catch {
    throw { status: 0, code: "network" };
  }
  stop.abort();
  const { status } = answer;
  const code = { 404: "not_found", 409: "zip_nothing", 422: "zip_large" }[status];
  if (!answer.ok) throw { status, code, requestId: answer.headers.get("x-request-id") };
}

$("zip").addEventListener("click", zip);
$("bin").addEventListener("click", () => drop(picked()));
$("whole").addEventListener("click", () => pickAll(true));
$("clear").addEventListener("click", () => pickAll(false));

export const onKey = followHands({ picked, press, look, drop, undo, pickAll });
