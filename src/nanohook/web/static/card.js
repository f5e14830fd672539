/** One picture of the gallery: what its card shows, whatever its job is doing. */

import { heldText, isWaiting, keptText } from "./job-words.js";
import { load } from "./picture-loader.js";
import { $, board, filled, now, read, setBusy, texts } from "./saying.js";

const stages = JSON.parse(board.dataset.stages);
const faults = JSON.parse(board.dataset.faults);
const words = { texts, stages, held: JSON.parse(board.dataset.held) };
const LATE_S = 120;
const DRAFT = "nanohook.draft.";

/**
 * Make a card for a `job`, or for a `file` that is to become one.
 *
 * `share` is how much of the file has left (`null`: it waits), `refusal` why it was not taken, `isAsking` whether an
 * answer is being waited for, `paysAgain` whether the next retry may have to be paid once more.
 */
export function make({ job = null, file = null }) {
  const li = $("card").content.firstElementChild.cloneNode(true);
  const part = (name) => li.querySelector(`.${name}`);
  const card = {
    li, part, job, file, share: null, refusal: null, note: "", isAsking: false, paysAgain: false,
    image: part("fill"), prompt: li.querySelector("textarea"), pick: li.querySelector("input"),
    bar: li.querySelector("progress"),
  };
  if (file) {
    card.preview = URL.createObjectURL(file);
    card.image.src = card.preview;
  }
  if (job) card.prompt.value = sessionStorage.getItem(DRAFT + job.job_id) ?? job.prompt ?? "";
  card.prompt.addEventListener("input", () => {
    keepDraft(card);
    card.note = "";
    render(card);
  });
  render(card);
  return card;
}

/** What was typed and not asked for yet outlives a reload. */
function keepDraft(card) {
  if (!card.job) return;
  const name = DRAFT + card.job.job_id;
  if (isSame(card)) sessionStorage.removeItem(name);
  else sessionStorage.setItem(name, card.prompt.value);
}

/**
 * Take in what the service says of the job; tells whether that was news.
 *
 * An event may overtake an answer that is older; but what was wished for only answers tell.
 */
export function learn(card, told, eventId) {
  if (card.job && eventId < card.job.event_id) {
    card.job.prompt ??= told.prompt;
    render(card);
    return false;
  }
  const { place = null } = told;
  told = withWholePrompt(card.job, told);
  card.job = { ...card.job, ...told, place, event_id: eventId, ...(told.at && { updated_at: told.at }) };
  if (isRunning(card)) card.paysAgain = false;
  if (told.prompt && !card.prompt.value) card.prompt.value = told.prompt;
  keepDraft(card);
  render(card);
  return true;
}

/** A list tells the beginning of a long prompt alone: the whole of it, once known, is kept. */
function withWholePrompt(job, told) {
  if (!told.prompt_truncated || job?.prompt_truncated || !job?.prompt?.startsWith(told.prompt)) return told;
  const { prompt, prompt_truncated } = job;
  return { ...told, prompt, prompt_truncated };
}

/** Take in the job itself, whose prompt a list has cut, before that is changed or asked for again. */
export function complete(card, whole) {
  if (card.prompt.value === card.job.prompt) card.prompt.value = whole.prompt;
  const { place, event_id: eventId } = card.job;
  learn(card, { prompt: whole.prompt, prompt_truncated: false, place }, eventId);
}

/** Let go of the file's own picture: there is a better one, or this browser cannot draw it, or nobody looks. */
export function forget(card) {
  if (!card.preview) return;
  URL.revokeObjectURL(card.preview);
  if (card.image.src === card.preview) card.image.removeAttribute("src");
  card.preview = null;
  card.li.classList.toggle("bare", !card.image.src);
}

export const isSame = (card) => card.prompt.value.trim() === (card.job?.prompt ?? "");

/** `sending`, `refused`, `new`, `running`, `ready`, `failed`, `canceled`. */
export function kindOf(card) {
  const { job, refusal } = card;
  if (!job) return refusal ? "refused" : "sending";
  if (job.stage === "uploaded") return "new";
  return { COMPLETED: "ready", FAILED: "failed", CANCELED: "canceled" }[job.status] ?? "running";
}

export const isRunning = (card) => kindOf(card) === "running";

/** What the card shows in full: the newest result, or the original. */
export const shown = ({ job }) => (job?.status === "COMPLETED" && job.images[0]) || job?.original;

/** Name a download after what was asked for. */
export function fileName({ job }, made) {
  const said = (job.prompt ?? "").match(/[\p{L}\p{N}]+/gu)?.join("-").slice(0, 40);
  return `${said || "picture"}-nanohook.${made.content_type.split("/")[1].replace("jpeg", "jpg")}`;
}

/** The only place that changes what a card looks like; nothing it does moves the cards around it. */
export function render(card) {
  const { li, part, job } = card;
  const kind = kindOf(card);
  const isBusy = kind === "running" || card.isAsking;
  const made = shown(card);
  li.dataset.kind = kind;
  li.dataset.stage = job?.stage ?? "";
  li.classList.toggle("busy", isBusy);
  showPicture(card, made);
  tick(card);
  part("state").classList.toggle("wrong", !!card.note);
  // Whoever waits has more to say than there is room for beside it.
  const size = made && !isWaiting(job) ? `${made.width} × ${made.height}` : "";
  part("size").textContent = job ? size : (card.file?.name ?? "");
  card.image.alt = job?.prompt || card.file?.name || texts.picture;
  li.setAttribute("aria-label", `${card.image.alt}, ${part("doing").textContent}`);
  card.prompt.readOnly = isBusy || !!job?.prompt_truncated;
  showBar(card, kind, isBusy);
  showFault(card, kind);
  showButtons(card, kind, isBusy);
}

function showPicture(card, made) {
  const url = made?.thumbnail_url ?? "";
  const { image } = card;
  card.part("number").hidden = !(card.job?.images?.length > 1 && kindOf(card) === "ready");
  card.part("number").textContent = card.job?.images?.length;
  card.li.classList.toggle("bare", !url && !card.preview);
  if (!url || image.dataset.url === url) return;
  image.dataset.url = url;
  if (!image.src) return void (image.src = url);
  // Exchanged only when it can be drawn: no flash of nothing in between.
  const next = new Image();
  next.src = url;
  const swap = () => {
    if (image.dataset.url !== url) return;
    image.src = url;
    forget(card);
  };
  next.decode().then(swap, swap);
}

/** Load the card's picture until it can be drawn: its job is what it is, and is not made anew for that. */
export async function loadAgain(card) {
  const { image, job } = card;
  const wanted = image.dataset.url;
  if (card.loading === wanted || !wanted) return;
  card.loading = wanted;
  card.li.classList.add("bare");
  let newest = null;
  const fresh = async () => {
    newest = await read(`/api/images/${job.job_id}`);
    return shown({ job: newest }).thumbnail_url;
  };
  const isWanted = () => card.li.isConnected && image.dataset.url === wanted;
  // One that was deleted meanwhile is taken away by its event.
  const url = await load(wanted, { fresh, isWanted }).catch(() => null);
  // Another picture has taken its place meanwhile.
  if (card.loading !== wanted) return;
  card.loading = null;
  card.li.classList.toggle("bare", !url && !card.preview);
  if (!url) return;
  image.src = image.dataset.url = url;
  if (newest) learn(card, newest, newest.event_id);
}

/** What becomes of the picture if `job`, as it was last seen, is canceled; `ended` is how it is then. */
export const kept = (job, ended = job) => (isRunning({ job }) ? keptText(words, job, ended) : "");

/** What it is doing, in words; called every second while it runs. */
export function tick(card) {
  const { job } = card;
  const kind = kindOf(card);
  let text = { new: texts.new, ready: stages.completed, failed: texts.failed, canceled: texts.canceled }[kind];
  if (kind === "sending") {
    const n = Math.floor(card.share * 100);
    const sent = n < 100 ? filled(texts.uploading, { n }) : texts.checking;
    text = card.share === null ? texts.waiting_upload : sent;
  } else if (kind === "refused") text = texts.not_sent;
  else if (kind === "running") {
    const seconds = Math.max(0, Math.round((now() - Date.parse(job.updated_at)) / 1000));
    text = isWaiting(job) && job.place ? filled(texts.in_line, { n: job.place }) : stages[job.stage];
    if (job.stage === "generating") text = seconds < LATE_S ? `${text} ${seconds} s` : `${seconds} s · ${texts.late}`;
  } else if (card.isAsking) text = texts.busy;
  card.part("doing").textContent = card.note || text;
}

function showBar({ bar, job, share }, kind, isBusy) {
  const isSending = kind === "sending";
  bar.hidden = !isBusy && !isSending;
  // The bar holds what is known and nothing in between; before anything is, it only moves.
  const value = isSending ? (share ?? 0) * 100 : kind === "running" ? job.progress : 0;
  if (isSending ? share !== null && share < 1 : value) bar.value = value;
  else bar.removeAttribute("value");
}

function showFault({ part, job, refusal, paysAgain }, kind) {
  const fault = part("fault");
  const [why, what] = fault.children;
  const held = heldText(words, job);
  fault.hidden = kind !== "refused" && kind !== "failed" && !paysAgain && !held;
  fault.classList.toggle("held", !!held);
  if (fault.hidden) return;
  const code = job?.error?.code;
  const [message, advice] = faults[code] ?? [job?.error?.message ?? "", job?.error?.advice ?? ""];
  why.textContent = kind === "refused" ? refusal.text : kind === "failed" ? message : "";
  what.textContent = held || (paysAgain || code === "unknown_outcome" ? texts.may_be_paid : kind === "failed" ? advice : "");
}

function showButtons(card, kind, isBusy) {
  const { part, job } = card;
  const made = kind === "ready" ? job.images[0] : null;
  const go = part("go");
  const paysAgain = card.paysAgain || (kind === "failed" && job.error?.code === "unknown_outcome");
  const again = isSame(card) ? (paysAgain ? texts.pay_again : texts.retry) : texts.generate;
  const refused = card.refusal?.isFinal ? texts.remove : texts.retry;
  const label = { ready: texts.again, failed: again, canceled: again, refused }[kind] ?? texts.generate;
  go.lastElementChild.textContent = isBusy ? texts.busy : label;
  setBusy(go, isBusy);
  go.classList.toggle("main", kind !== "ready" && kind !== "refused");
  part("stop").hidden = kind !== "running";
  part("look").hidden = !shown(card) || kind === "running";
  part("view").hidden = !shown(card);
  part("view").setAttribute("aria-label", `${part("look").title}: ${card.image.alt}`);
  part("save").hidden = !made;
  if (!made) return;
  part("save").href = made.url;
  part("save").download = fileName(card, made);
}
