// Keeps an open page up to date: it takes what the server has rendered and counts seconds.
// What agents wrote arrives as HTML in which the server has escaped every character of markup.

import { follow } from "./stream.js";
import { showSeconds } from "./clock.js";

const MAX_STEPS = 2000; // as many as the server puts on the page
const page = document.body.dataset.page;
const connection = document.getElementById("connection");
const readOnly = connection?.textContent ?? "";

function say(words) {
  if (connection) connection.textContent = [readOnly, words].filter(Boolean).join(" · ");
}

function replaceRows(name, { order, rows }) {
  const body = document.getElementById(name);
  const known = new Map([...body.children].map((row) => [row.id, row]));
  let place = body.firstElementChild;
  for (const key of order) {
    const id = `${name}-${key}`;
    let row = known.get(id);
    known.delete(id);
    if (!row) {
      row = document.createElement("tr");
      row.setAttribute("role", "row"); // narrow windows show a row as a block
      row.id = id;
    }
    if (key in rows) row.innerHTML = rows[key];
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
  }
  for (const row of known.values()) row.remove();
  document.getElementById(`${name}-empty`).hidden = order.length > 0;
}

function showFigures(figures) {
  for (const [key, value] of Object.entries(figures)) {
    for (const place of document.querySelectorAll(`[data-figure="${key}"]`)) {
      if (place.textContent !== value) place.textContent = value;
      if (place.tagName === "P") place.hidden = !value;
    }
  }
}

// Rows that the first paint leaves out: laying out 200 takes longer than everything before.
function showRest() {
  for (const rest of document.querySelectorAll("template[data-rest]")) {
    document.getElementById(rest.dataset.rest).append(rest.content);
    rest.remove();
  }
  showSeconds();
}

if (page === "now") {
  requestAnimationFrame(() => setTimeout(showRest));
  const tasks = document.getElementById("tasks");
  follow("/ui/events", tasks.dataset.after, say, {
    update(data) {
      showRest();
      replaceRows("tasks", data.tasks);
      replaceRows("workers", data.workers);
      showFigures(data.figures);
      showSeconds();
    },
  });
}

const steps = document.getElementById("steps");
if (page === "task" && steps.dataset.live) {
  const head = document.getElementById("head");
  const stop = follow(`/ui/tasks/${steps.dataset.task}/events`, steps.dataset.after, say, {
    step(data) {
      if (document.getElementById(`step-${data.number}`)) return;
      steps.insertAdjacentHTML("beforeend", data.html);
      while (steps.children.length > MAX_STEPS) steps.firstElementChild.remove();
    },
    head(data) {
      // A person who types a reason must not lose it.
      if (!head.contains(document.activeElement) || data.ended) head.innerHTML = data.html;
      showSeconds();
      if (data.ended) stop();
    },
  });
}

// Not on each button: the head of a task is replaced while the page is open.
document.addEventListener("click", async ({ target }) => {
  const id = target instanceof Element && target.closest("button[data-copy]")?.dataset.copy;
  if (!id) return;
  await navigator.clipboard.writeText(document.getElementById(id).textContent);
  say("copied");
});

setInterval(showSeconds, 1000);
showSeconds();
