/** One picture in full, with its neighbours an arrow away; loaded when it is first asked for. */

import { fileName, shown } from "./card.js";
import { $, texts } from "./saying.js";

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
