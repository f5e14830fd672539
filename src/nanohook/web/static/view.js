/** One picture in full, with its neighbours an arrow away; loaded when it is first asked for. */

import { fileName, shown } from "./card.js";
import { load } from "./picture-loader.js";
import { $, read, texts } from "./saying.js";

const dialog = $("full");
const part = (name) => dialog.querySelector(`.${name}`);
const image = dialog.querySelector("img");
/** `{ card, made }`: every picture of every card, in the order of the gallery. */
let list = [];
let place = 0;
let leave = () => {};

const picturesOf = (card) => (card.job.status === "COMPLETED" ? card.job.images : [shown(card)]);

export function open(card, cards, focus) {
  list = cards.flatMap((each) => picturesOf(each).map((made) => ({ card: each, made })));
  place = list.findIndex((each) => each.card === card);
  leave = focus;
  show();
  dialog.showModal();
}

function show() {
  const { card, made } = list[place];
  part("missed").hidden = true;
  image.src = made.url;
  image.width = made.width;
  image.height = made.height;
  image.alt = part("caption").textContent = card.job.prompt || texts.picture;
  part("size").textContent = `${made.width} × ${made.height}`;
  part("out").href = part("save").href = made.url;
  part("save").download = fileName(card, made);
  part("previous").disabled = place === 0;
  part("next").disabled = place === list.length - 1;
}

/** It is there, whatever became of the line to it: it is loaded until it can be drawn. */
image.addEventListener("error", async () => {
  if (!image.hasAttribute("src")) return;
  const mine = list[place];
  const fresh = async () => {
    const job = await read(`/api/images/${mine.card.job.job_id}`);
    return (job.images.find(({ index }) => index === mine.made.index) ?? job.original).url;
  };
  const failed = (again) => {
    part("missed").hidden = false;
    part("missed").lastElementChild.onclick = again;
  };
  const isWanted = () => dialog.open && list[place] === mine;
  const url = await load(null, { fresh, failed, isWanted }).catch(() => null);
  if (!url) return;
  part("missed").hidden = true;
  image.src = part("out").href = part("save").href = url;
});

function go(step) {
  if (!list[place + step]) return;
  place += step;
  show();
}

part("previous").addEventListener("click", () => go(-1));
part("next").addEventListener("click", () => go(1));
part("quit").addEventListener("click", () => dialog.close());
part("space").addEventListener("click", (event) => event.target !== image && dialog.close());
dialog.addEventListener("keydown", ({ key }) => {
  if (key === "ArrowLeft") go(-1);
  else if (key === "ArrowRight") go(1);
});
dialog.addEventListener("close", () => {
  image.removeAttribute("src");
  leave(list[place].card);
});
