/** Short messages in a corner: success, errors, what goes on. */

import { $, counted, sentence } from "./saying.js";

const SHOWN_MS = 4_000;
/** Whoever wants something back needs a moment to see that it is gone. */
const UNDO_MS = 10_000;
const STAYS = ["bad", "busy"];

/**
 * Tell something for a while; what goes on stays until it has ended, and an error until it is closed.
 *
 * `kind`: `good`, `bad`, `busy` or nothing; `act`: what a button says, `then`: what that does. What comes back can be
 * told something else, or `go`.
 */
export function toast(text, { kind = "", act = "", then = null } = {}) {
  const element = $("toast").content.firstElementChild.cloneNode(true);
  const [words, button, close] = element.children;
  let timer = 0;
  const go = () => {
    clearTimeout(timer);
    element.remove();
  };
  const wait = () => {
    clearTimeout(timer);
    if (!STAYS.includes(element.dataset.kind)) timer = setTimeout(go, act ? UNDO_MS : SHOWN_MS);
  };
  const tell = (said, is) => {
    element.dataset.kind = is;
    element.setAttribute("role", is === "bad" ? "alert" : "status");
    words.textContent = said;
    wait();
  };
  button.hidden = !act;
  button.textContent = act;
  button.onclick = () => {
    go();
    then();
  };
  close.onclick = go;
  // Whoever is reading it, or about to press it, is not hurried.
  element.onmouseenter = element.onfocusin = () => clearTimeout(timer);
  element.onmouseleave = element.onfocusout = wait;
  $("toasts").append(element);
  tell(text, kind);
  return {
    tell,
    go,
    get isGone() {
      return !element.isConnected;
    },
  };
}

/** Tell why something was refused; the same once, however often. */
export function fail(problem) {
  const text = sentence(problem);
  const isTold = [...$("toasts").children].some((each) => each.firstElementChild.textContent === text);
  if (!isTold) toast(text, { kind: "bad" });
}

/** One message for all that is done at about the same time. */
let party = { number: 0, told: null };
export function celebrate(number, one, many) {
  if (party.told?.isGone ?? true) party = { number: 0, told: null };
  party.number += number;
  const text = counted(party.number, one, many);
  if (party.told) party.told.tell(text, "good");
  else party.told = toast(text, { kind: "good" });
}
