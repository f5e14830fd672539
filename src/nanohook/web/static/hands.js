/** The gallery by keyboard, and many boxes ticked in one go. */

import { all, cardOf, focus, showPicked } from "./gallery.js";
import { $ } from "./saying.js";

const isTyping = (element) => element.matches("textarea, input:not([type=checkbox], [type=file])");

/** Where an arrow leads; lines have as many cards as the first. */
function neighbour(card, key) {
  const list = all();
  const second = list.findIndex((other) => other.li.offsetTop !== list[0].li.offsetTop);
  const wide = second < 0 ? list.length : second;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide }[key];
  if (step === undefined) return { Home: list[0], End: list.at(-1) }[key];
  return list[list.indexOf(card) + step];
}

/** Listen to keys; what comes back takes one that was pressed before. */
export function followHands({ picked, press, look, drop, undo, pickAll }) {
  const onCard = (event, card) => {
    const { key, target } = event;
    const isItself = target === card.li;
    const next = neighbour(card, key);
    if (next) focus(next);
    else if (key === "Enter" && isItself) look(card);
    else if (key === " " && isItself) {
      card.pick.checked = !card.pick.checked;
      showPicked();
    } else if (key === "Delete") drop(card.pick.checked ? picked() : [card]);
    else if (key === "r" && ["failed", "canceled"].includes(card.li.dataset.kind)) press(card);
    else return;
    event.preventDefault();
  };

  const onEscape = (target, card) => {
    if (target === $("search")) target.blur();
    else if (card && target !== card.li) focus(card);
    else pickAll(false);
  };

  const onKey = (event) => {
    const { key, target } = event;
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    const card = cardOf(target);
    const isCommand = event.ctrlKey || event.metaKey;
    if (key === "Escape") onEscape(target, card);
    else if (isCommand && key === "Enter" && card) press(card);
    else if (isTyping(target) || event.altKey) return;
    else if (isCommand && key === "z") undo();
    else if (isCommand) return;
    else if (key === "/") {
      event.preventDefault();
      $("search").focus();
    } else if (card) onCard(event, card);
  };
  addEventListener("keydown", onKey);

  /* From one box to another with Shift: all between them. */
  let anchor = null;
  $("grid").addEventListener("click", ({ target, shiftKey }) => {
    const card = target.matches("input[type=checkbox]") && cardOf(target);
    if (!card) return;
    const list = all();
    const [from, to] = [list.indexOf(anchor), list.indexOf(card)].sort((one, other) => one - other);
    if (shiftKey && from >= 0) for (const between of list.slice(from, to)) between.pick.checked = card.pick.checked;
    anchor = card;
    showPicked();
  });
  $("grid").addEventListener("focusin", ({ target }) => {
    const card = cardOf(target);
    if (!card || card.li.tabIndex === 0) return;
    $("grid").querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
    card.li.tabIndex = 0;
  });
  return onKey;
}
