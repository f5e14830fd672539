/** A finished picture that cannot be loaded for a moment is loaded again by itself: it is there, and was paid. */

const FIRST_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 30_000;

/**
 * Load the picture at `url` until it can be drawn, however long that takes; resolves to its address then, or to
 * `null` once `isWanted()` says that nobody looks any more.
 *
 * `fresh()` promises another address after each failure, since the one that was tried may be too old; without an
 * `url` it is asked first. `failed(again)` hears of each failure; `again()` tries at once, as a connection that is
 * back does. Rejects only when `fresh` says that the picture is gone (404).
 */
export async function load(url, { fresh, failed = () => {}, isWanted = () => true }) {
  for (let tries = 0; isWanted(); tries++) {
    try {
      if (tries || !url) url = await fresh();
      const image = new Image();
      image.src = url;
      await image.decode();
      return isWanted() ? url : null;
    } catch (problem) {
      if (problem.status === 404) throw problem;
    }
    if (!isWanted()) break;
    await pause(tries, failed);
  }
  return null;
}

/** Doubling, with jitter: after a break not every picture of a page is asked for in the same moment. */
function pause(tries, failed) {
  const ms = Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** tries) * (0.5 + Math.random() / 2);
  return new Promise((resolve) => {
    const again = () => {
      clearTimeout(timer);
      removeEventListener("online", again);
      resolve();
    };
    const timer = setTimeout(again, ms);
    addEventListener("online", again);
    failed(again);
  });
}
