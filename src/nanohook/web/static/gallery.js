/**
 * The gallery of one project: its pictures, newest first, each with what happens to it.
 *
 * The server is the only memory: the page asks for the list, then follows the stream from there, so that a reload in
 * the middle of a job shows it going on. Filter and search live in the address (`#show=…&q=…`). What hands do is in
 * `deeds.js`, loaded at their first sign: the first view stays light.
 */

import * as cards from "./card.js";
import { feed } from "./feed.js";
import { refresh as refreshCredits } from "./me.js";
import { $, board, counted, filled, isBusy, read, say, sentence, setBusy, texts } from "./saying.js";

const PAGE = 24;
const REST_MS = 300;
/** A stream ends every few minutes and comes back at once: shorter breaks than this are nobody's business. */
const BREAK_MS = 5_000;
const { project } = board.dataset;
const RAN = `nanohook.ran.${project}`;
const STATUSES = {
  all: [],
  waiting: ["PENDING"],
  running: ["INITIALIZING", "GENERATING"],
  ready: ["COMPLETED"],
  failed: ["FAILED"],
  canceled: ["CANCELED"],
};
const grid = $("grid");

/** Every card that is shown, by its element. */
const shown = new Map();
export const all = () => [...grid.children].map(cardOf).filter(Boolean);
export const cardOf = (element) => shown.get(element.closest(".card"));
const byId = (id) => all().find(({ job }) => job?.job_id === id);
const toasts = () => import("./toasts.js");

let asked = { show: "all", q: "" };
let nextCursor = null;
/** The list that is being fetched; whoever finds another one there is out of date. */
let turn = null;

/* ---- the list ---- */

const address = (cursor) => {
  const query = new URLSearchParams({ project_id: project, limit: PAGE });
  for (const status of STATUSES[asked.show]) query.append("status", status);
  if (asked.q) query.set("q", asked.q);
  if (cursor) query.set("cursor", cursor);
  return `/api/images?${query}`;
};

/** A page of a search may be empty and have a next: go on until there is something, or an end. */
async function fetchPage(cursor, mine) {
  let head = null;
  for (;;) {
    const page = await read(address(cursor));
    // The first page's: what came while the next ones were read is told by the stream.
    page.event_id = head ??= page.event_id;
    if (page.images.length || !page.next_cursor || turn !== mine) return page;
    cursor = page.next_cursor;
  }
}

/** Show the list from its beginning; returns the newest event that it knows of. */
async function load() {
  const mine = (turn = {});
  grid.setAttribute("aria-busy", "true");
  if (asked.q) say(texts.searching);
  let page = { images: [], next_cursor: null };
  let problem = null;
  try {
    page = await fetchPage(null, mine);
  } catch (thrown) {
    problem = thrown;
  }
  if (turn !== mine) return null;
  grid.setAttribute("aria-busy", "false");
  for (const li of grid.querySelectorAll(".waits")) li.remove();
  $("broken").hidden = !problem;
  $("broken").querySelector("p").textContent = problem ? sentence(problem) : "";
  const found = new Set(page.images.map((job) => job.job_id));
  for (const card of all()) if (card.job && !found.has(card.job.job_id)) remove(card);
  page.images.forEach(put);
  showRest(page.next_cursor);
  if (problem) return null;
  count();
  if (asked.q) say(found.size ? counted(found.size, "pictures_one", "pictures_many") : texts.found_none);
  return page.event_id;
}

async function more() {
  if (isBusy($("more"))) return;
  const mine = turn;
  setBusy($("more"), true);
  try {
    const page = await fetchPage(nextCursor, mine);
    if (turn !== mine) return;
    const [first] = page.images.map(put);
    showRest(page.next_cursor);
    if (first) focus(first);
  } catch (problem) {
    (await toasts()).fail(problem);
  } finally {
    setBusy($("more"), false);
  }
}

function showRest(cursor) {
  nextCursor = cursor;
  $("more").hidden = !cursor;
  showEmpty();
}

function showEmpty() {
  const isEmpty = !shown.size && grid.getAttribute("aria-busy") === "false" && $("broken").hidden;
  const isChosen = asked.show !== "all" || !!asked.q;
  $("empty").hidden = !isEmpty || isChosen;
  $("none").hidden = !isEmpty || !isChosen;
}

/** Show a job, in its place among the others or as far as it has come since. */
export function put(job) {
  const known = byId(job.job_id);
  if (known) {
    cards.learn(known, job, job.event_id);
    return known;
  }
  const card = cards.make({ job });
  add(card, all().find((other) => other.job && other.job.job_id < job.job_id)?.li);
  return card;
}

export function add(card, before = null) {
  shown.set(card.li, card);
  grid.insertBefore(card.li, before);
  if (!grid.querySelector('[tabindex="0"]')) card.li.tabIndex = 0;
  showEmpty();
}

export function remove(card) {
  const { li } = card;
  const neighbour = li.nextElementSibling ?? li.previousElementSibling;
  const hadFocus = li.contains(document.activeElement);
  cards.forget(card);
  shown.delete(li);
  li.remove();
  if (li.tabIndex === 0) neighbour?.setAttribute("tabindex", "0");
  // The keyboard's place goes on to the next picture.
  if (hadFocus) (neighbour ?? $("files")).focus();
  showPicked();
  showEmpty();
}

export function focus(card) {
  grid.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
  card.li.tabIndex = 0;
  card.li.focus();
}

/** How many there are of each kind, and what credit is left: told by the server, a moment after the last change. */
let countTimer = 0;
export function count() {
  clearTimeout(countTimer);
  countTimer = setTimeout(async () => {
    if (isFollowing) refreshCredits();
    const found = await read(`/api/projects/${project}`).catch(() => null);
    for (const chip of found ? $("filter").children : []) {
      const wanted = STATUSES[chip.dataset.show];
      const statuses = wanted.length ? wanted : Object.keys(found.counts);
      chip.lastElementChild.textContent = statuses.reduce((sum, status) => sum + found.counts[status], 0);
    }
  }, REST_MS);
}

/** What is chosen is told in the bar below; what to do with it is a matter for hands. */
export function showPicked() {
  const number = all().filter((card) => card.pick.checked).length;
  $("chosen").hidden = !number || !areHere;
  $("number").textContent = counted(number, "one_selected", "many_selected");
  board.classList.toggle("picking", number > 0);
}

/* ---- the stream ---- */

/** Jobs that were heard of and are not shown; and how many answers may still bring one of them. */
const unknown = new Set();
const elsewhere = new Set();
let expected = 0;
let seekTimer = 0;

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
  const page = await read(address(null)).catch(() => null);
  page?.images.filter((job) => heard.includes(job.job_id)).forEach(put);
  // Behind a filter it may come to fit.
  if (asked.show === "all" && !asked.q) for (const id of heard) if (!byId(id)) elsewhere.add(id);
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

function onDeleted(id, eventId) {
  const card = byId(id);
  if (card && eventId > card.job.event_id) remove(card);
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

/* ---- hands ---- */

let deeds = null;
let areHere = false;
const hands = () => (deeds ??= import("./deeds.js").finally(onHands));
function onHands() {
  areHere = true;
  showPicked();
}

for (const sign of ["pointermove", "pointerdown", "focusin"]) addEventListener(sign, hands, { once: true });
addEventListener("keydown", async (event) => areHere || (await hands()).onKey(event));

/** Generate, or what it says on that button: busy at once, whatever comes of it. */
export function press(card) {
  const kind = cards.kindOf(card);
  if (card.isAsking || kind === "running") return;
  const isRetry = ["failed", "canceled"].includes(kind) && cards.isSame(card);
  if (kind !== "refused" && !isRetry && !card.prompt.value.trim()) {
    card.note = texts.no_prompt;
    say(texts.no_prompt);
    card.prompt.focus();
  } else {
    card.isAsking = kind !== "refused";
    if (card.isAsking) say(texts.busy);
    hands().then(({ go }) => go(card, isRetry));
  }
  cards.render(card);
}

grid.addEventListener("click", async ({ target }) => {
  const act = target.closest("[data-act]")?.dataset.act;
  const card = cardOf(target);
  if (act === "go") press(card);
  else if (act) (await hands())[act](card);
});
grid.addEventListener("change", showPicked);
grid.addEventListener("error", ({ target }) => {
  const card = cardOf(target);
  if (!card?.job) return card && cards.forget(card);
  // An address is good for a day: one that was kept for longer is asked for again, once.
  if (card.isRenewed) return;
  card.isRenewed = true;
  read(`/api/images/${card.job.job_id}`).then(put, () => {});
}, true);

$("files").addEventListener("change", async () => {
  const files = [...$("files").files];
  // The same file chosen again would be no change.
  $("files").value = "";
  (await hands()).take(files);
});

/* The whole page takes a drop: a picture that misses the box must not replace the page. */
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
let depth = 0;
const drag = (change) => board.classList.toggle("dragging", (depth = Math.max(0, change)) > 0);
addEventListener("dragenter", (event) => carriesFiles(event) && drag(depth + 1));
addEventListener("dragleave", (event) => carriesFiles(event) && drag(depth - 1));
addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
addEventListener("drop", async (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  drag(0);
  const files = [...event.dataTransfer.files];
  (await hands()).take(files);
});
addEventListener("paste", async (event) => {
  const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
  if (!files.length) return;
  event.preventDefault();
  (await hands()).take(files);
});

/* ---- filter and search ---- */

function ask(change) {
  asked = { ...asked, ...change };
  const isPlain = asked.show === "all" && !asked.q;
  const hash = isPlain ? "" : `#${new URLSearchParams(asked)}`;
  history.replaceState(null, "", hash || location.pathname);
  for (const link of document.querySelectorAll(".languages a")) link.hash = hash;
  if ($("search").value.trim() !== asked.q) $("search").value = asked.q;
  for (const chip of $("filter").children) chip.setAttribute("aria-pressed", chip.dataset.show === asked.show);
  return load();
}

$("filter").addEventListener("click", ({ target }) => {
  const chip = target.closest("button");
  if (chip) ask({ show: chip.dataset.show });
});
let searchTimer = 0;
$("search").addEventListener("input", () => {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(() => ask({ q: $("search").value.trim() }), REST_MS);
});
$("more").addEventListener("click", more);
$("all").addEventListener("click", () => ask({ show: "all", q: "" }));
$("broken").querySelector("button").addEventListener("click", begin);
setInterval(() => all().filter(cards.isRunning).forEach(cards.tick), 1000);

let isFollowing = false;
async function begin() {
  const given = new URLSearchParams(location.hash.slice(1));
  const show = given.get("show");
  const cursor = await ask({ show: Object.hasOwn(STATUSES, show) ? show : "all", q: given.get("q") ?? "" });
  if (cursor === null || isFollowing) return;
  isFollowing = true;
  recall();
  const denied = async (problem) => (await toasts()).fail(problem);
  feed(cursor, { status: onStatus, deleted: onDeleted, reset: load, link: showLink, denied });
}

begin();
