/** How the studio tells what goes on: picture, stages, link, errors; the page's words come with the page. */

import { job as fetchJob, now } from "./nanohook.js";
import { load } from "./picture-loader.js";
import { stageText } from "./job-words.js";
import { inWords } from "./problems.js";

export const $ = (id) => document.getElementById(id);
/** The page's texts, and the stages' sentences, in its language. */
export const texts = JSON.parse($("studio").dataset.texts);
export const stages = JSON.parse($("studio").dataset.stages);
export const words = { texts, stages, held: JSON.parse($("studio").dataset.held) };

const LATE_S = 120;
/** A stream ends every few minutes and comes back at once: shorter breaks than this are nobody's business. */
const BREAK_MS = 5_000;
/** Which of the five named steps a stage belongs to. */
const STEP_OF = { uploading: "queued", queued: "queued", submitting: "queued" };

const steps = [...$("steps").children];
let ticker = 0;
let breakTimer = 0;

/** Show the original `{ url, file?, imageId? }`. */
export function showPicture({ url, file, imageId }) {
  const image = $("before");
  image.onload = () => {
    image.hidden = false;
    // Told by the browser after EXIF rotation, as the server counts it.
    $("before-size").textContent = `${image.naturalWidth} × ${image.naturalHeight}`;
  };
  image.onerror = async () => {
    image.hidden = true;
    // What this browser cannot draw is still sent: the server is the one to judge.
    if (file) return;
    const fresh = async () => (await fetchJob(imageId)).original.url;
    const isWanted = () => image.getAttribute("src") === url;
    // One that is gone is told of by whatever is done with it next.
    const found = await load(null, { fresh, isWanted }).catch(() => null);
    if (found) image.src = $("ghost").src = found;
  };
  image.hidden = true;
  $("before-size").textContent = "";
  image.src = url;
  $("ghost").src = url;
}

export function clearPicture() {
  $("before").hidden = true;
  $("before").removeAttribute("src");
  $("before-size").textContent = "";
}

/** Show a `status` event's stage, or our own `uploading` with the `share` that has left. */
export function showStage(job) {
  const { stage, progress, at, share } = job;
  const current = STEP_OF[stage] ?? stage;
  const place = steps.findIndex((step) => step.dataset.step === current);
  steps.forEach((step, index) => {
    step.className = index < place ? "past" : index === place ? "current" : "";
    if (index === place) step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
  });
  const isUploading = stage === "uploading";
  $("work").dataset.stage = stage;
  $("stage").textContent = isUploading ? texts.uploading : stageText(words, job);
  $("elapsed").textContent = "";
  // The bar holds what the server said and nothing in between; before it said anything, it only moves.
  if (progress) $("bar").value = progress;
  else $("bar").removeAttribute("value");
  stopClock();
  if (isUploading && share) $("elapsed").textContent = `${Math.floor(share * 100)} %`;
  if (stage !== "generating") return;
  const since = Date.parse(at);
  const tick = () => {
    const seconds = Math.max(0, Math.round((now() - since) / 1000));
    $("elapsed").textContent = `${seconds} s · ${seconds < LATE_S ? texts.usually : texts.late}`;
  };
  tick();
  ticker = setInterval(tick, 1000);
}

/** Show a result that can be drawn, of the job of `picture` and `prompt`. */
export function showResult(made, { picture, prompt }) {
  const image = $("after");
  image.width = made.width;
  image.height = made.height;
  image.alt = prompt || texts.after;
  $("view").href = $("download").href = made.url;
  $("download").download = fileName(picture?.file, made);
  const { naturalWidth: width, naturalHeight: height } = image;
  const original = $("before");
  const isAlike = original.naturalWidth === width && original.naturalHeight === height;
  $("after-size").textContent = `${width} × ${height}${isAlike ? ` · ${texts.same_size}` : ""}`;
}

/** Say why there is no picture to be seen, and what the button below does about it. */
export function showFailure({ text, advice, label = texts.again, id = "", again }) {
  $("failure-text").textContent = text;
  $("failure-advice").textContent = advice;
  $("again").textContent = label;
  $("again").onclick = again;
  $("failure-id").textContent = id;
}

export const stopClock = () => clearInterval(ticker);

/** `live`, `reconnecting`, `offline`, or `null`: nothing is being followed. */
export function showLink(state) {
  clearTimeout(breakTimer);
  const show = () => {
    $("link").hidden = !state;
    $("link").dataset.link = state ?? "";
    $("link").textContent = state ? texts[state] : "";
  };
  if (state === "reconnecting") breakTimer = setTimeout(show, BREAK_MS);
  else show();
}

/** Beside the prompt, announced at once. */
export function notice(text) {
  $("notice").textContent = text;
}

/** On a phone what happens is below what was typed. */
export function reveal(element) {
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "nearest", behavior: isCalm ? "auto" : "smooth" });
}

/** For those who listen; nobody sees it. */
export function say(text) {
  $("said").textContent = text;
}

/** A `Problem` in words: what happened and what to do. */
export const sentence = (problem) => inWords(texts, problem);

/** Name a result after the `file` it was made of. */
function fileName(file, made) {
  const name = (file?.name ?? "").replace(/\.[^.]*$/, "").slice(0, 80) || "picture";
  return `${name}-nanohook.${made.content_type.split("/")[1].replace("jpeg", "jpg")}`;
}
