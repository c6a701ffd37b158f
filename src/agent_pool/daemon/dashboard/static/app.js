// Keeps an open page up to date: it takes what the server has rendered and counts seconds.
// What agents wrote arrives as HTML in which the server has escaped every character of markup.

import { follow } from "./stream.js";
import { showSeconds } from "./clock.js";

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

if (page === "now") {
  const tasks = document.getElementById("tasks");
  follow("/ui/events", tasks.dataset.after, say, {
    update(data) {
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
    },
    head(data) {
      // A person who types a reason must not lose it.
      if (!head.contains(document.activeElement) || data.ended) head.innerHTML = data.html;
      showSeconds();
      if (data.ended) stop();
    },
  });
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    say("copied");
  });
}

setInterval(showSeconds, 1000);
showSeconds();
