/**
 * The studio's page: one picture, one wish, one job at a time.
 *
 * The job's id lives in the address (`#job=…`): a reload, a bookmark or another tab shows the same again, and the
 * server is the only memory. Nothing an error does takes picture or prompt away.
 */

import * as me from "./me.js";
import * as nanohook from "./nanohook.js";
import {
  $, clearPicture, fileName, notice, reveal, say, sentence, showLink, showPicture, showStage, stages, stopClock, texts,
} from "./telling.js";

const studio = $("studio");
const mostBytes = Number(studio.dataset.mostBytes);

const DRAFT = "nanohook.prompt";
/** What is shown on the left: `{ file?, url, imageId?, uploading?, share }`. */
let picture = null;
/** What was asked for last, or is being followed: `{ id, picture, prompt, event }`. */
let job = null;
/** The press of Generate that is being worked on; whoever finds another one there has been canceled. */
let turn = null;
let stream = null;

/* ---- the picture ---- */

function take(file) {
  if (!file || turn) return;
  const before = { picture, job, state: studio.dataset.state };
  const mine = { file, url: URL.createObjectURL(file), share: 0 };
  picture?.stop?.abort();
  picture = mine;
  job = null;
  leave();
  notice("");
  showPicture(picture.url);
  enter("ready");
  // At once, not at Generate: a file that cannot be used is told now, and a reload still has the picture.
  upload(mine).then(
    () => before.picture?.file && URL.revokeObjectURL(before.picture.url),
    (problem) => {
      if (problem.name === "AbortError" || picture !== mine || turn) return;
      if ([413, 415, 422].includes(problem.status)) takeBack(before);
      refuse(problem);
    },
  );
}

/** A file that cannot be used does not cost the picture that was there. */
function takeBack(before) {
  const isDrawn = !$("before").hidden;
  if (!before.picture?.imageId && isDrawn) return;
  ({ picture, job } = before);
  if (picture) showPicture(picture.url);
  else clearPicture();
  enter(before.state);
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
  const mine = (turn = {});
  const last = job;
  notice("");
  job = null;
  enter("running");
  reveal($("outcome"));
  showStage({ stage: picture.imageId ? "queued" : "uploading", share: picture.share });
  say(texts.busy);
  try {
    const id = await ask(last, prompt, buyAgain);
    me.refresh();
    // Canceled between the click and the answer: the job exists by now and must not go on.
    if (turn !== mine) return void nanohook.cancel(id).catch(() => {});
    watch(id, prompt);
  } catch (problem) {
    if (turn !== mine) return;
    turn = null;
    // Spent elsewhere meanwhile: the header shall not say otherwise.
    if (problem.status === 402) me.refresh();
    if (problem.code === "may_be_paid") {
      job = last;
      fail({ message: problem.message, code: "unknown_outcome" });
    } else {
      job = last;
      enter("ready");
      refuse(problem);
    }
  }
}

/** Get a job going for what the form says; returns its id. */
async function ask(last, prompt, buyAgain) {
  // The same wish once more is the next attempt of the same job: what was paid already is not bought again.
  const isSame = last && last.picture === picture && last.prompt === prompt;
  const status = isSame ? last.event?.status : null;
  // It was lost from sight, not ended: somebody who had to sign in again looks on.
  if (isSame && !nanohook.FINAL.has(status)) return last.id;
  if (status === "FAILED" || status === "CANCELED") {
    try {
      await nanohook.retry(last.id, { buyAgain });
    } catch (problem) {
      // Somebody, in another tab perhaps, was faster: their attempt is as good.
      if (problem.code !== "not_failed") throw problem;
    }
    return last.id;
  }
  await upload(picture);
  try {
    return (await nanohook.generate({ imageId: picture.imageId, prompt })).job_id;
  } catch (problem) {
    // The first answer got lost on the way, or another tab has asked: it runs.
    if (problem.code === "job_running") return picture.imageId;
    if (problem.status !== 404 || !picture.file) throw problem;
    // Uploads that nobody used are thrown away after some days: the file is still here.
    picture.imageId = picture.uploading = null;
    await upload(picture);
    return (await nanohook.generate({ imageId: picture.imageId, prompt })).job_id;
  }
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
  const before = job.event;
  job.event = event;
  if (nanohook.FINAL.has(event.status)) {
    turn = null;
    me.refresh();
    showLink(null);
    if (event.status === "COMPLETED") finish(event);
    else fail(event.status === "CANCELED" ? null : (event.error ?? { message: event.message }));
    return;
  }
  turn ??= {};
  if (studio.dataset.state !== "running") enter("running");
  showStage(event);
  // Two announcements on the way are enough for somebody who listens.
  if (event.stage !== before?.stage && ["generating", "downloading"].includes(event.stage)) {
    say(event.stage === "generating" ? `${stages.generating} ${texts.usually}` : stages.downloading);
  }
}

async function finish(event, isSecond = false) {
  const mine = job;
  const image = $("after");
  const [made] = event.images.length ? event.images : (await nanohook.result(mine.id)).images;
  image.src = made.url;
  image.width = made.width;
  image.height = made.height;
  image.alt = mine.prompt || texts.after;
  try {
    // Shown only when it can be drawn: no half picture, no jump.
    await image.decode();
  } catch {
    if (job !== mine) return;
    // An address is good for a day: one that was kept for longer is asked for again, once.
    if (isSecond) return fail({ message: texts.no_network });
    return finish({ images: [] }, true).catch(() => fail({ message: texts.no_network }));
  }
  if (job !== mine) return;
  $("view").href = $("download").href = made.url;
  $("download").download = fileName(picture?.file, made);
  const { naturalWidth: width, naturalHeight: height } = image;
  const original = $("before");
  const isSame = original.naturalWidth === width && original.naturalHeight === height;
  $("after-size").textContent = `${width} × ${height}${isSame ? ` · ${texts.same_size}` : ""}`;
  enter("done");
  reveal($("outcome"));
  say(stages.completed);
}

/** Say why there is no picture, and offer the next attempt; `null`: it was canceled. */
function fail(error) {
  turn = null;
  const isUnknown = error?.code === "unknown_outcome";
  $("failure-text").textContent = error?.message ?? stages.canceled;
  $("failure-advice").textContent = isUnknown ? texts.may_be_paid : (error?.advice ?? "");
  $("again").textContent = isUnknown ? texts.pay_again : texts.again;
  $("again").onclick = () => press({ buyAgain: isUnknown });
  $("failure-id").textContent = job?.id ?? "";
  enter(error ? "failed" : "canceled");
  reveal($("outcome"));
}

async function cancel() {
  if (!job) {
    turn = null;
    enter("ready");
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

/** `empty`, `ready`, `running`, `done`, `failed`, `canceled`: the only place that shows and hides. */
function enter(state) {
  const focused = document.activeElement;
  const isRunning = state === "running";
  const isEnded = state === "failed" || state === "canceled";
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
  const title = { running: texts.busy, done: stages.completed, failed: stages.failed }[state];
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
  if (picture) showPicture(picture.url);
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

document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  take(file);
});

/* The whole page takes a drop: a picture that misses the box must not replace the page. */
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
let depth = 0;
const drag = (change) => studio.classList.toggle("dragging", (depth = Math.max(0, change)) > 0 && !turn);
document.addEventListener("dragenter", (event) => carriesFiles(event) && drag(depth + 1));
document.addEventListener("dragleave", (event) => carriesFiles(event) && drag(depth - 1));
document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  drag(0);
  take(event.dataTransfer.files[0]);
});

addEventListener("hashchange", restore);

$("mod").textContent = /Mac|iP(hone|ad)/.test(navigator.platform) ? "⌘" : "Ctrl";
$("prompt").value = sessionStorage.getItem(DRAFT) ?? "";
$("generate").disabled = false;
restore();
