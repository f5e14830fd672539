/**
 * An event stream with a watchdog: whatever comes in between is noticed, and gone around.
 *
 * A dead link gives no sign, some relays hold back what they carry, and a frozen page wakes beside a connection that
 * was cut long ago. So the server is asked for a heartbeat that script can see, every 15 s. After 40 s without
 * anything, and whenever somebody comes back to the page, the stream is opened anew and the present state is asked
 * for; while a connection lets nothing through, every 5 s. All of this is measured on the clock: timers stand still
 * in a frozen page.
 */

const SILENCE_MS = 40_000;
const HELD_BACK_MS = 5_000;
const TICK_MS = 1_000;
const FIRST_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 30_000;

/**
 * Keep a stream open, from behind the event `cursor` on.
 *
 * `url(query)` makes, or promises, its address of a query that has cursor and heartbeat in it; `on[name](data, id)`
 * hears its events, `id` being 0 for one that has none; `look(isRefused)` asks for the present state in another way,
 * never rejects, and may resolve to the seconds that the service wants to be left alone; `link(state)` hears `live`,
 * `reconnecting` or `offline`. `isOver()` tells that no more is to come: what ends then is no break.
 * `denied(problem)` tells whether it has dealt with what `url` rejected with.
 */
export function openStream({ cursor = "", url, on, parse = JSON.parse, look, link, isOver = () => false, denied }) {
  const listening = new AbortController();
  const { signal } = listening;
  let source = null;
  let opened = 0;
  let pauses = 0;
  let timer = 0;
  let shown = "";
  /** When something came last, or a connection was begun. */
  let heardAt = 0;
  /** Whether anything has come over this connection. */
  let isHeard = true;
  let isLooking = false;
  let nextLookAt = 0;
  /** The state was asked for because nothing came: what comes then may be older. */
  let isBehind = false;

  const tell = (state) => {
    if (state !== shown && !signal.aborted) link?.((shown = state));
  };
  const tellBreak = () => tell(navigator.onLine ? "reconnecting" : "offline");

  const close = () => {
    listening.abort();
    clearTimeout(timer);
    clearInterval(watch);
    source?.close();
  };

  const waitForSign = () => {
    // From the first connection on that brought nothing: those that follow it do not put off the first look.
    if (isHeard) nextLookAt = Date.now() + HELD_BACK_MS;
    isHeard = false;
  };

  const hear = () => {
    heardAt = Date.now();
    isHeard = true;
    pauses = 0;
    tell("live");
    if (isBehind) ask();
    isBehind = false;
  };

  const open = async () => {
    const mine = ++opened;
    clearTimeout(timer);
    source?.close();
    heardAt = Date.now();
    waitForSign();
    // It begins at the present: what was seen before may be older.
    isBehind ||= mine > 1 && !cursor;
    let address;
    try {
      address = await url(new URLSearchParams({ heartbeat: "event", ...(cursor && { last_event_id: cursor }) }));
    } catch (problem) {
      if (mine === opened && !signal.aborted && !denied?.(problem)) refused();
      return;
    }
    if (mine !== opened || signal.aborted) return;
    source = new EventSource(address);
    source.onerror = onError;
    // An event without an id of its own carries the one before it.
    let before = "";
    for (const name of new Set(["ready", "heartbeat", "reset", ...Object.keys(on)])) {
      source.addEventListener(name, (event) => {
        if (mine !== opened) return;
        const { lastEventId } = event;
        const id = lastEventId === before ? 0 : Number(lastEventId);
        before = lastEventId;
        cursor = name === "reset" ? "" : lastEventId || cursor;
        hear();
        on[name]?.(parse(event.data), id);
      });
    }
  };

  const onError = () => {
    if (signal.aborted) return;
    waitForSign();
    if (source.readyState !== EventSource.CLOSED) {
      // The platform comes back by itself.
      if (!isOver()) tellBreak();
    } else if (isOver()) close();
    else refused();
  };

  /** EventSource hides why it was refused, and stops for good: ask in a way that tells. */
  const refused = async () => {
    tellBreak();
    await ask(true);
    if (!signal.aborted) again();
  };

  /** Doubling pauses with full jitter: after a restart not everybody comes back in the same moment. */
  const again = () => {
    const ceiling = Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** pauses++);
    clearTimeout(timer);
    timer = setTimeout(open, FIRST_PAUSE_MS + Math.random() * ceiling);
  };

  const ask = async (isRefused = false) => {
    if (isLooking || signal.aborted) return;
    isLooking = true;
    let pauseS = 0;
    try {
      pauseS = await look(isRefused);
    } finally {
      isLooking = false;
      nextLookAt = Date.now() + Math.max(HELD_BACK_MS * (0.9 + Math.random() * 0.2), pauseS * 1000);
    }
  };

  const renew = () => {
    if (isOver()) return;
    open();
    ask();
  };

  const watch = setInterval(() => {
    const now = Date.now();
    if (isOver()) return;
    if (Math.abs(now - heardAt) > SILENCE_MS) renew();
    else if (!isHeard && now >= nextLookAt) {
      isBehind = true;
      tellBreak();
      ask();
    }
  }, TICK_MS);

  const onReturn = () => document.visibilityState === "visible" && renew();
  document.addEventListener("visibilitychange", onReturn, { signal });
  document.addEventListener("resume", renew, { signal });
  addEventListener("pageshow", ({ persisted }) => persisted && renew(), { signal });
  addEventListener("offline", () => tell("offline"), { signal });
  addEventListener("online", () => {
    tell("reconnecting");
    renew();
  }, { signal });
  open();
  return { open, close };
}
