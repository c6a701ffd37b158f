// The seconds of tasks that run: the server sends when they began.

function words(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 100) return `${whole} s`;
  if (whole >= 3600) return `${Math.round(whole / 60)} min`;
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

// The clock of the browser can differ: it can be on another machine.
const ahead = Date.now() / 1000 - Number(document.body.dataset.now);

export function showSeconds() {
  const now = Date.now() / 1000 - ahead;
  for (const place of document.querySelectorAll("[data-since]")) {
    const text = words(now - Number(place.dataset.since));
    if (place.textContent !== text) place.textContent = text;
  }
}
