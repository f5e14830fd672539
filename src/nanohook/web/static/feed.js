/** All that happens to this person's jobs, over one stream: breaks only delay, and nothing comes twice. */

import { read } from "./saying.js";

const FIRST_PAUSE_MS = 1_000;
const MOST_PAUSE_MS = 30_000;

/**
 * Hear everything after the event `cursor`, or from now on if there is none.
 *
 * Handlers: `status(event, id)`; `deleted(jobId, id)`; `reset()`: something may have been missed, look again;
 * `link(state)`: `live`, `reconnecting` or `offline`; `denied(problem)`: signed out, no more comes.
 */
export function feed(cursor, handlers) {
  let source = null;
  let pauses = 0;
  let timer = 0;

  const hear = (name, tell) =>
    source.addEventListener(name, (event) => {
      cursor = Number(event.lastEventId) || cursor;
      tell(JSON.parse(event.data), cursor);
    });

  const open = () => {
    clearTimeout(timer);
    source?.close();
    source = new EventSource(cursor ? `/api/events?last_event_id=${cursor}` : "/api/events");
    source.onopen = () => {
      pauses = 0;
      handlers.link("live");
      // It begins now: what was seen before may be older.
      if (!cursor) handlers.reset();
    };
    source.onerror = () => {
      handlers.link(navigator.onLine ? "reconnecting" : "offline");
      // The platform comes back by itself, unless it was refused.
      if (source.readyState === EventSource.CLOSED) look();
    };
    hear("status", handlers.status);
    hear("deleted", (gone, id) => handlers.deleted(gone.job_id, id));
    source.addEventListener("reset", () => handlers.reset());
  };

  /** EventSource hides why it was refused: ask in a way that tells. */
  const look = async () => {
    try {
      await read("/api/images?limit=1");
    } catch (problem) {
      if (problem.status === 401 || problem.status === 403) return handlers.denied(problem);
    }
    // Full jitter: after a restart not everybody comes back in the same moment.
    const most = Math.min(MOST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** pauses++);
    timer = setTimeout(open, FIRST_PAUSE_MS + Math.random() * most);
  };

  addEventListener("offline", () => handlers.link("offline"));
  // What the platform waits for may be half-open for minutes after a change of network.
  addEventListener("online", open);
  open();
}
