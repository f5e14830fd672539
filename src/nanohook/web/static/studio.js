/**
 * The studio's page: one picture, one wish, one job at a time.
 *
 * The job's id lives in the address (`#job=…`): a reload, a bookmark or another tab shows the same again, and the
 * server is the only memory. Nothing an error does takes picture or prompt away.
 */

import { takeFiles } from "./file-drop.js";
import { isWaiting, keptText } from "./job-words.js";
import * as me from "./me.js";
import * as nanohook from "./nanohook.js";
import { isSame, start } from "./ordering.js";
import { load } from "./picture-loader.js";
import {
  $, clearPicture, notice, reveal, say, sentence, showFailure, showLink, showPicture, showResult, showStage, stages,
  stopClock, texts, words,
} from "./telling.js";

const studio = $("studio");
const mostBytes = Number(studio.dataset.mostBytes);

const DRAFT = "nanohook.prompt";
const FIRST_PLACE_MS = 1_000;
const PLACE_EVERY_MS = 5_000;
/** What is shown on the left: `{ file?, url, imageId?, uploading?, share }`. */
let picture = null;
/** What was asked for last, or is being followed: `{ id, picture, prompt, event, loadAgain? }`. */
let job = null;
/** The press of Generate that is being worked on; whoever finds another one there has been canceled. */
let turn = null;
/** What was shown before that press: `{ job, state }`. */
let before = null;
let placeTimer = 0;
let stream = null;

/* ---- the picture ---- */

function take(file) {
  if (!file || turn) return;
  const former = { picture, job, state: studio.dataset.state };
  const mine = { file, url: URL.createObjectURL(file), share: 0 };
  picture?.stop?.abort();
  picture = mine;
  job = null;
  leave();
  notice("");
  showPicture(picture);
  enter("ready");
  // At once, not at Generate: a file that cannot be used is told now, and a reload still has the picture.
  upload(mine).then(
    () => former.picture?.file && URL.revokeObjectURL(former.picture.url),
    (problem) => {
      if (problem.name === "AbortError" || picture !== mine || turn) return;
      if ([413, 415, 422].includes(problem.status)) takeBack(former);
      refuse(problem);
    },
  );
}

/** A file that cannot be used does not cost the picture that was there. */
function takeBack(former) {
  const isDrawn = !$("before").hidden;
  if (!former.picture?.imageId && isDrawn) return;
  ({ picture } = former);
  if (picture) showPicture(picture);
  else clearPicture();
  comeBack(former);
}

function upload(mine) {
  if (mine.imageId || mine.uploading) return mine.uploading ?? Promise.resolve();
  mine.stop = new AbortController();
  mine.uploading = (async () => {
    // A server that refuses by size hangs up in the middle: the browser would only see a broken connection.
    if (mine.file.size > mostBytes) throw new nanohook.Problem({ status: 413, code: "too_large" });
    const made = await nanohook.create(mine.file, {
      signal: mine.stop.signal,
      progress: (share) => {
        mine.share = share;
        if (turn && !job) showStage({ stage: "uploading", share });
      },
    });
    mine.imageId = made.job_id;
    if (picture === mine && !job) remember(made.job_id);
  })();
  // A failed upload is tried again by the next Generate.
  mine.uploading.catch(() => (mine.uploading = null));
  return mine.uploading;
}

/* ---- the job ---- */

async function press({ buyAgain = false } = {}) {
  if (turn) return;
  const prompt = $("prompt").value.trim();
  if (!picture) return refuse(null, texts.no_picture, $("file"));
  if (!prompt) return refuse(null, texts.no_prompt, $("prompt"));
  const last = job;
  notice("");
  // There is a picture that nobody has seen yet: it is not made once more.
  if (last?.loadAgain && isSame(last, picture, prompt)) return last.loadAgain();
  const mine = (turn = {});
  before = { job, state: studio.dataset.state };
  job = null;
  enter("running");
  reveal($("outcome"));
  showStage({ stage: picture.imageId ? "queued" : "uploading", share: picture.share });
  say(texts.busy);
  try {
    const id = await start({ last, picture, prompt, buyAgain, upload });
    me.refresh();
    // Canceled between the click and the answer: the job exists by now and must not go on.
    if (turn !== mine) return void nanohook.cancel(id).catch(() => {});
    watch(id, prompt);
  } catch (problem) {
    if (turn !== mine) return;
    goBack();
    // Spent elsewhere meanwhile: the header shall not say otherwise.
    if (problem.status === 402) me.refresh();
    if (problem.code === "may_be_paid") fail({ message: problem.message, code: "unknown_outcome" });
    else refuse(problem);
  }
}

/** Nothing came of the press: what was shown before stays where it was. */
function goBack() {
  turn = null;
  comeBack(before);
}

function comeBack(former) {
  ({ job } = former);
  enter(former.state);
  if (former.state === "unseen") finish(job.event);
}

function watch(id, prompt) {
  job = { id, picture, prompt, event: null };
  turn ??= {};
  remember(id);
  leave();
  stream = nanohook.follow(id, {
    status: onStatus,
    link: showLink,
    deleted: () => forget(texts.deleted),
    denied: (problem) => {
      turn = null;
      enter("ready");
      refuse(problem);
    },
  });
}

function leave() {
  stream?.close();
  stream = null;
  showLink(null);
}

function onStatus(event) {
  console.info(`[image ${event.job_id}] ${event.status} ${event.progress} % ${event.stage}`);
  const last = job.event;
  job.event = event;
  if (nanohook.FINAL.has(event.status)) {
    turn = null;
    me.refresh();
    showLink(null);
    if (event.status === "COMPLETED") finish(event);
    else if (event.status === "CANCELED") fail(null, keptText(words, last, event));
    else fail(event.error ?? { message: event.message });
    return;
  }
  turn ??= {};
  if (studio.dataset.state !== "running") enter("running");
  showStage(event);
  askPlace(job, FIRST_PLACE_MS);
  // Two announcements on the way are enough for somebody who listens.
  if (event.stage !== last?.stage && ["generating", "downloading"].includes(event.stage)) {
    say(event.stage === "generating" ? `${stages.generating} ${texts.usually}` : stages.downloading);
  }
}

/** While it waits nothing happens to it: its place in line, and why everybody waits, have to be asked for. */
function askPlace(mine, ms = PLACE_EVERY_MS) {
  clearTimeout(placeTimer);
  if (!isWaiting(mine.event)) return;
  placeTimer = setTimeout(async () => {
    // Without an answer it stays as it was: the stream tells what is wrong.
    const found = await nanohook.status(mine.id).catch(() => null);
    if (job !== mine || !isWaiting(mine.event)) return;
    if (isWaiting(found)) showStage({ ...mine.event, message: found.message, place: found.place });
    askPlace(mine);
  }, ms);
}

async function finish(event) {
  const mine = job;
  const image = $("after");
  let made = event.images?.[0];
  const fresh = async () => {
    [made] = (await nanohook.result(mine.id)).images;
    return made.url;
  };
  const failed = (again) => {
    mine.loadAgain = again;
    if (studio.dataset.state !== "unseen") miss();
  };
  try {
    // Shown only when it can be drawn: no half picture, no jump.
    const url = await load(made?.url, { fresh, failed, isWanted: () => job === mine });
    if (!url) return;
    image.src = url;
    await image.decode().catch(() => {});
  } catch {
    if (job === mine) forget(texts.gone);
    return;
  }
  if (job !== mine) return;
  mine.loadAgain = null;
  showResult(made, mine);
  enter("done");
  reveal($("outcome"));
  say(stages.completed);
}

/** Say that the picture is there and cannot be loaded; it is being loaded again, and nothing is bought for that. */
function miss() {
  const mine = job;
  showFailure({ text: texts.unseen, advice: texts.unseen_advice, id: mine.id, again: () => mine.loadAgain?.() });
  enter("unseen");
  reveal($("outcome"));
}

/** Say why there is no picture, and offer the next attempt; without an `error` it was canceled. */
function fail(error, advice = error?.advice ?? "") {
  turn = null;
  const isUnknown = error?.code === "unknown_outcome";
  showFailure({
    text: error?.message ?? stages.canceled,
    advice: isUnknown ? texts.may_be_paid : advice,
    label: isUnknown ? texts.pay_again : texts.again,
    id: job?.id,
    again: () => press({ buyAgain: isUnknown }),
  });
  enter(error ? "failed" : "canceled");
  reveal($("outcome"));
}

async function cancel() {
  if (!job) {
    goBack();
    say(stages.canceled);
    return;
  }
  try {
    await nanohook.cancel(job.id);
  } catch (problem) {
    // It ended a moment before: the stream tells how.
    if (problem.code !== "job_ended") refuse(problem);
  }
}

/* ---- what is seen ---- */

/** `empty`, `ready`, `running`, `done`, `unseen`, `failed`, `canceled`: the only place that shows and hides. */
function enter(state) {
  const focused = document.activeElement;
  const isRunning = state === "running";
  const isEnded = ["unseen", "failed", "canceled"].includes(state);
  studio.dataset.state = state;
  $("work").hidden = !isRunning;
  $("ghost").hidden = !(isRunning && picture);
  $("failure").hidden = !isEnded;
  $("view").hidden = $("download").hidden = state !== "done";
  $("after-size").hidden = state !== "done";
  $("cancel").hidden = !isRunning;
  $("generate-text").textContent = isRunning ? texts.busy : texts.generate;
  // Not `disabled`: that would throw the keyboard's focus away.
  $("generate").setAttribute("aria-disabled", isRunning);
  $("generate").setAttribute("aria-busy", isRunning);
  $("file").disabled = $("camera").disabled = isRunning;
  // A button that goes must not take the keyboard's place with it.
  if (focused?.closest("[hidden]")) $("generate").focus({ preventScroll: true });
  stopClock();
  const title = { running: texts.busy, done: stages.completed, unseen: stages.completed, failed: stages.failed }[state];
  document.title = `${title ?? texts.title} · nanohook`;
}

function refuse(problem, text = sentence(problem), focus = null) {
  notice(text);
  reveal($("notice"));
  focus?.focus();
}

/* ---- coming back ---- */

/** Keep the job's id in the address; the switch of language brings it along. */
function remember(id) {
  history.replaceState(null, "", id ? `#job=${encodeURIComponent(id)}` : location.pathname);
  for (const link of document.querySelectorAll(".languages a")) link.hash = location.hash;
}

function forget(text) {
  leave();
  remember("");
  turn = job = picture = null;
  clearPicture();
  enter("empty");
  notice(text);
}

/** Show what the address names, as far as it has come. */
async function restore() {
  const id = new URLSearchParams(location.hash.slice(1)).get("job");
  if (!id || id === job?.id) return;
  const shown = picture;
  let found;
  try {
    found = await nanohook.job(id);
  } catch (problem) {
    if (problem.status === 404) return forget(texts.gone);
    refuse(problem);
    // Nothing is lost: the address still has it when the connection is back.
    return addEventListener("online", restore, { once: true });
  }
  // Whoever was quicker than the network has chosen something else.
  if (picture !== shown) return;
  leave();
  turn = job = null;
  notice("");
  picture = found.original && { imageId: id, url: found.original.url, share: 1 };
  if (picture) showPicture(picture);
  $("prompt").value ||= found.prompt ?? "";
  if (found.stage === "uploaded") {
    remember(id);
    enter("ready");
    return;
  }
  if (nanohook.FINAL.has(found.status)) {
    remember(id);
    job = { id, picture, prompt: found.prompt, event: null };
    if (picture) await $("before").decode().catch(() => {});
    onStatus({ ...found, at: found.updated_at });
  } else {
    enter("running");
    showStage({ ...found, at: found.updated_at });
    watch(id, found.prompt);
  }
}

/* ---- the hands ---- */

for (const input of [$("file"), $("camera")]) {
  input.addEventListener("change", () => {
    take(input.files[0]);
    // The same file chosen again would be no change.
    input.value = "";
  });
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  press();
});
$("cancel").addEventListener("click", cancel);

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
    event.preventDefault();
    press();
  }
});

$("prompt").addEventListener("input", () => {
  notice("");
  sessionStorage.setItem(DRAFT, $("prompt").value);
});

for (const chip of document.querySelectorAll(".chip")) {
  chip.addEventListener("click", () => {
    $("prompt").value = chip.textContent;
    $("prompt").dispatchEvent(new Event("input"));
    $("prompt").focus();
  });
}

takeFiles(studio, ([file]) => take(file), () => !turn);
addEventListener("hashchange", restore);

$("mod").textContent = /Mac|iP(hone|ad)/.test(navigator.platform) ? "⌘" : "Ctrl";
$("prompt").value = sessionStorage.getItem(DRAFT) ?? "";
$("generate").disabled = false;
restore();
