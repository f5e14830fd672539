/**
 * The gallery of one project: its pictures, newest first, each with what happens to it.
 *
 * The server is the only memory: the page asks for the list, then follows the stream from there, so that a reload in
 * the middle of a job shows it going on. Filter and search live in the address (`#show=…&q=…`). What hands do is in
 * `deeds.js`, loaded at their first sign: the first view stays light.
 */

import * as cards from "./card.js";
import { takeFiles } from "./file-drop.js";
import { follow } from "./gallery-stream.js";
import { refresh as refreshCredits } from "./me.js";
import { $, board, counted, isBusy, read, say, sentence, setBusy, texts } from "./saying.js";

const PAGE = 24;
const REST_MS = 300;
const { project } = board.dataset;
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
export const byId = (id) => all().find(({ job }) => job?.job_id === id);
export const toasts = () => import("./toasts.js");

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

export const isFiltered = () => asked.show !== "all" || !!asked.q;

/** The newest jobs that belong here; `null` if something else is asked for meanwhile. */
export async function firstPage() {
  const mine = turn;
  const page = await read(address(null));
  return turn === mine ? page.images : null;
}

/** Show the list from its beginning; returns the newest event that it knows of. */
export async function load() {
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
    const [first] = page.images.map(put).filter(Boolean);
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
  $("empty").hidden = !isEmpty || isFiltered();
  $("none").hidden = !isEmpty || !isFiltered();
}

/** Ids of jobs that are being deleted: an answer from before may still bring them. */
export const leaving = new Set();

/** Show a job, in its place among the others or as far as it has come since. */
export function put(job) {
  if (leaving.has(job.job_id)) return null;
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
  cards.loadAgain(card);
}, true);

$("files").addEventListener("change", async () => {
  const files = [...$("files").files];
  // The same file chosen again would be no change.
  $("files").value = "";
  (await hands()).take(files);
});

takeFiles(board, async (files) => (await hands()).take(files));

/* ---- filter and search ---- */

function ask(change) {
  asked = { ...asked, ...change };
  const hash = isFiltered() ? `#${new URLSearchParams(asked)}` : "";
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
  follow(cursor);
}

begin();
