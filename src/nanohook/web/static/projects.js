/** A person's projects: made, changed and deleted here; what is in them has a page of its own. */

import { request } from "./nanohook.js";
import { load as loadPicture } from "./picture-loader.js";
import { $, board, counted, filled, isBusy, sentence, setBusy, texts } from "./saying.js";
import { fail, toast } from "./toasts.js";

const PAGE = 48;
const mostBytes = Number(board.dataset.mostBytes);
const { pathname } = location;
const grid = $("grid");
const form = $("form");
const sure = $("sure");
let nextCursor = null;
/** What the open dialog is about: `{ project, li }`, without them a new one. */
let about = {};
/** The cover in the form: `undefined` stays as it is, `null` goes, a `File` comes. */
let cover;

/* ---- the list ---- */

async function load() {
  try {
    const page = await request("GET", `/api/projects?limit=${PAGE}${nextCursor ? `&cursor=${nextCursor}` : ""}`);
    for (const li of grid.querySelectorAll(".waits")) li.remove();
    grid.append(...page.projects.map(made));
    nextCursor = page.next_cursor;
    $("broken").hidden = true;
  } catch (problem) {
    if (grid.querySelector(".project")) return fail(problem);
    for (const li of grid.querySelectorAll(".waits")) li.remove();
    $("broken").hidden = false;
    $("broken").querySelector("p").textContent = sentence(problem);
  }
  showRest();
}

/** A cover that cannot be loaded for a moment comes by itself. */
async function loadAgain(image, id) {
  const fresh = async () => (await request("GET", `/api/projects/${id}`)).cover?.thumbnail_url;
  const url = await loadPicture(null, { fresh, isWanted: () => image.isConnected }).catch(() => null);
  if (url) image.src = url;
}

function showRest() {
  grid.setAttribute("aria-busy", "false");
  $("more").hidden = !nextCursor;
  $("empty").hidden = !!grid.children.length || !$("broken").hidden;
}

function made(project) {
  const li = $("card").content.firstElementChild.cloneNode(true);
  const part = (name) => li.querySelector(`.${name}`);
  part("whole").href = `${pathname}/${project.project_id}`;
  part("name").textContent = project.name;
  part("about").textContent = project.description ?? "";
  part("fill").hidden = !project.cover;
  if (project.cover) part("fill").src = project.cover.thumbnail_url;
  part("fill").onerror = ({ target }) => loadAgain(target, project.project_id);
  part("counts").append(...told(project.counts));
  part("edit").addEventListener("click", () => edit({ project, li }));
  part("delete").addEventListener("click", () => askToDelete({ project, li }));
  return li;
}

const total = (counts) => Object.values(counts).reduce((sum, number) => sum + number, 0);
const pictures = (counts) => {
  const number = total(counts);
  return number ? counted(number, "pictures_one", "pictures_many") : texts.no_pictures;
};

/** `12 pictures`, and below it `2 running · 1 failed`. */
function told(counts) {
  const line = (name, text) => Object.assign(document.createElement("span"), { className: name, textContent: text });
  const running = counts.INITIALIZING + counts.GENERATING;
  return [
    line("", pictures(counts)),
    running && line("runs", filled(texts.running_many, { n: running })),
    counts.FAILED && line("failed", filled(texts.failed_many, { n: counts.FAILED })),
  ].filter(Boolean);
}

/* ---- make and change ---- */

function edit(what) {
  about = what;
  const { project } = what;
  const words = form.dataset;
  $("form-title").textContent = project ? words.edit : words.new;
  $("save").lastElementChild.textContent = project ? words.save : words.create;
  $("name").value = project?.name ?? "";
  $("description").value = project?.description ?? "";
  $("refused").textContent = "";
  cover = undefined;
  showCover(project?.cover?.thumbnail_url);
  form.showModal();
  $("name").focus();
}

function showCover(url) {
  const image = $("cover-shown");
  URL.revokeObjectURL(image.src);
  image.hidden = $("no-cover").hidden = !url;
  if (url) image.src = url;
}

async function save() {
  if (isBusy($("save"))) return;
  const { project, li } = about;
  const name = $("name").value.trim();
  if (!name) return refuse(texts.no_name, $("name"));
  if (cover?.size > mostBytes) return refuse(texts.too_large, $("cover"));
  $("refused").textContent = "";
  setBusy($("save"), true);
  try {
    const path = project ? `/api/projects/${project.project_id}` : "/api/projects";
    const kept = await request(project ? "PATCH" : "POST", path, body(name));
    if (!project) return location.assign(`${pathname}/${kept.project_id}`);
    const next = made(kept);
    li.replaceWith(next);
    form.close();
    next.querySelector(".edit").focus();
    toast(texts.saved, { kind: "good" });
  } catch (problem) {
    refuse(sentence(problem));
  } finally {
    setBusy($("save"), false);
  }
}

function body(name) {
  const description = $("description").value.trim();
  if (!cover) return { name, description, ...(cover === null && { cover: null }) };
  const sent = new FormData();
  sent.append("name", name);
  sent.append("description", description);
  sent.append("cover", cover, cover.name);
  return sent;
}

function refuse(text, field) {
  $("refused").textContent = text;
  field?.focus();
}

/* ---- delete ---- */

function askToDelete(what) {
  about = what;
  const { name, counts } = what.project;
  $("sure-text").textContent = filled(sure.dataset.text, { name, count: pictures(counts) });
  $("not-deleted").textContent = "";
  sure.showModal();
}

async function remove() {
  if (isBusy($("delete"))) return;
  const { project, li } = about;
  setBusy($("delete"), true);
  try {
    await request("DELETE", `/api/projects/${project.project_id}`).catch((problem) => {
      // Another tab was faster.
      if (problem.status !== 404) throw problem;
    });
    const neighbour = li.nextElementSibling ?? li.previousElementSibling;
    li.remove();
    showRest();
    sure.close();
    (neighbour?.querySelector(".whole") ?? $("new")).focus();
    toast(texts.project_deleted, { kind: "good" });
  } catch (problem) {
    $("not-deleted").textContent = sentence(problem);
  } finally {
    setBusy($("delete"), false);
  }
}

/* ---- the hands ---- */

for (const button of [$("new"), $("empty").querySelector("button")]) button.addEventListener("click", () => edit({}));
for (const [dialog, act] of [[form, save], [sure, remove]]) {
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
  dialog.querySelector(".quit").addEventListener("click", () => dialog.close());
}
$("cover").addEventListener("change", () => {
  [cover] = $("cover").files;
  if (cover) showCover(URL.createObjectURL(cover));
  $("cover").value = "";
});
$("no-cover").addEventListener("click", () => {
  cover = null;
  showCover(null);
  $("cover").focus();
});
$("broken").querySelector("button").addEventListener("click", load);
$("more").addEventListener("click", async () => {
  if (isBusy($("more"))) return;
  setBusy($("more"), true);
  const before = grid.children.length;
  await load();
  setBusy($("more"), false);
  grid.children[before]?.querySelector("a").focus();
});

load();
