/**
 * Stream clients of others, each used as its own documentation shows: follow `url` until the client stops by itself.
 *
 *     node stream_clients.mjs CLIENT URL
 *
 * In Node a line of JSON is printed for each event; a page imports `follow` and gives its own `tell`.
 */

const isPage = typeof window !== "undefined";
/** A page has no resolver of names: it is given the files of the packages below `/npm/`. */
const load = (name, file) => import(isPage ? `/npm/node_modules/${name}/${file}` : name);
const FINAL = new Set(["COMPLETED", "FAILED", "CANCELED"]);

/** An event source in the standard's shape: it stops when it is told 204. */
function standard(source, tell) {
  for (const name of ["message", "status", "reset", "ready"]) {
    source.addEventListener(name, (event) => tell({ name, data: event.data, id: event.lastEventId }));
  }
  return new Promise((resolve) => {
    source.addEventListener("error", () => {
      // The state is set behind the event by some.
      setTimeout(() => source.readyState === 2 && resolve(), 0);
    });
  });
}

const CLIENTS = {
  /** The browser's. Node's own is an experiment that does not come back when a connection is lost. */
  async EventSource(url, tell) {
    await standard(new EventSource(url), tell);
  },

  async eventsource(url, tell) {
    const { EventSource } = await load("eventsource");
    await standard(new EventSource(url), tell);
  },

  async "launchdarkly-eventsource"(url, tell) {
    const { EventSource } = (await load("launchdarkly-eventsource")).default;
    // What it takes as passing is up to its user; by itself it gives up at the first lost connection.
    const source = new EventSource(url, { errorFilter: ({ status }) => !status });
    const end = new Promise((resolve) => {
      source.onclosed = resolve;
      source.addEventListener("closed", resolve);
      source.onerror = ({ status }) => status && resolve();
    });
    for (const name of ["message", "status", "reset", "ready"]) {
      source.addEventListener(name, (event) => tell({ name, data: event.data, id: event.lastEventId }));
    }
    await end;
  },

  /** The parser alone, in a loop around `fetch` such as people write. */
  async "eventsource-parser"(url, tell) {
    const { createParser } = await load("eventsource-parser");
    let cursor = "";
    let pauseMs = 1000;
    let isOver = false;
    while (!isOver) {
      const parser = createParser({
        onEvent({ event = "message", data, id }) {
          cursor = id ?? cursor;
          tell({ name: event, data, id });
          isOver ||= FINAL.has(JSON.parse(data).status);
        },
        onRetry: (ms) => (pauseMs = ms),
      });
      try {
        const answer = await fetch(url, { headers: cursor ? { "Last-Event-ID": cursor } : {} });
        if (answer.status === 204) return;
        const decoder = new TextDecoder();
        for await (const chunk of answer.body) parser.feed(decoder.decode(chunk, { stream: true }));
      } catch {
        // Lost: it comes back.
      }
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  },

  async "event-source-polyfill"(url, tell) {
    await load("event-source-polyfill", "src/eventsource.min.js");
    await standard(new window.EventSourcePolyfill(url), tell);
  },

  async "@microsoft/fetch-event-source"(url, tell) {
    const { fetchEventSource } = await load("@microsoft/fetch-event-source", "lib/esm/index.js");
    const stop = new AbortController();
    await fetchEventSource(url, {
      signal: stop.signal,
      openWhenHidden: true,
      onmessage({ event, data, id }) {
        tell({ name: event || "message", data, id });
        if (FINAL.has(JSON.parse(data).status)) stop.abort();
      },
      onclose() {
        throw new Error("come back");
      },
    });
  },

  async "sse.js"(url, tell) {
    const { SSE } = await load("sse.js", "lib/sse.js");
    const source = new SSE(url, { autoReconnect: true, useLastEventId: true });
    await new Promise((resolve) => {
      for (const name of ["message", "status", "reset", "ready"]) {
        source.addEventListener(name, (event) => {
          tell({ name, data: event.data, id: event.lastEventId });
          if (!FINAL.has(JSON.parse(event.data).status)) return;
          source.close();
          resolve();
        });
      }
    });
  },
};

export const follow = (name, url, tell) => CLIENTS[name](url, tell);

if (!isPage) {
  const [name, url] = process.argv.slice(2);
  await follow(name, url, (event) => console.log(JSON.stringify(event)));
  process.exit(0);
}
