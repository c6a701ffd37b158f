// A stream of events that goes on where it stopped, and rests while nobody sees the page.

const PAUSE = 2000; // milliseconds before the next try

export function follow(path, after, say, handlers) {
  let source = null;
  let last = after;
  let timer = 0;
  let done = false;

  function open() {
    if (source || done || document.hidden) return;
    source = new EventSource(`${path}?after=${encodeURIComponent(last)}`);
    source.onopen = () => say("");
    source.onerror = () => {
      close();
      timer = setTimeout(open, PAUSE);
      explain();
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => {
        if (event.lastEventId) last = event.lastEventId;
        handle(JSON.parse(event.data));
      });
    }
  }

  async function explain() {
    let status = 0; // no daemon answers
    try {
      ({ status } = await fetch("/ui/session", { cache: "no-store" }));
    } catch {}
    if (source) return; // connected again meanwhile
    say(status === 401 ? "signed out: run agent-pool open in a terminal" : "not connected, trying again");
  }

  function close() {
    clearTimeout(timer);
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else open();
  });
  open();
  return () => {
    done = true;
    close();
  };
}
