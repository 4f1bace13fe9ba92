// Keeps a page up to date. Everything works without it; nothing here decides anything.
"use strict";
(() => {
  const LOST_AFTER = 3500; // ms without a word; the server speaks every second
  const body = document.body;
  const topics = body.dataset.topics;
  const all = (selector) => document.querySelectorAll(selector);
  let heard = performance.now();
  let state = null;

  const ago = (seconds) => {
    for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
      if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
    }
    return `${Math.max(0, Math.floor(seconds))} s`;
  };

  const tick = () => {
    const now = Date.now();
    for (const time of all("time[data-ago]")) {
      if (time.dataset.text === undefined) time.dataset.text = time.textContent;
      time.textContent = `${time.dataset.text} (${ago((now - Date.parse(time.dateTime)) / 1000)} ago)`;
    }
    for (const time of all("time[data-until]")) {
      if (time.dataset.text === undefined) time.dataset.text = time.textContent.replace(/ \(in .*/, "");
      time.textContent = `${time.dataset.text} (in ${ago((Date.parse(time.dateTime) - now) / 1000)})`;
    }
    for (const ramp of all("progress.ramp")) {
      const from = Date.parse(ramp.dataset.from), to = Date.parse(ramp.dataset.to);
      ramp.value = Math.min(100, Math.max(0, 100 * (now - from) / (to - from)));
    }
  };

  const count = (field) => {
    const length = [...field.value.trim()].length;
    for (const output of all(`[data-count-of="${field.name}"]`)) {
      output.textContent = String(length);
      output.parentElement.classList.toggle("enough", length >= Number(field.dataset.count));
    }
  };
  for (const field of all("[data-count]")) {
    field.addEventListener("input", () => count(field));
    count(field);
  }
  // A form that was sent is not sent again by a second click; the server would not do it twice either.
  for (const form of all("form.dialog")) {
    form.addEventListener("submit", () => { for (const button of form.querySelectorAll("button")) button.disabled = true; });
  }
  addEventListener("pageshow", () => { for (const button of all("form.dialog button")) button.disabled = false; });

  tick();
  setInterval(tick, 1000);
  if (!topics || !window.EventSource) return;

  const announce = () => {
    const badge = document.querySelector("[data-topic=banner] [data-state]");
    if (!badge) return;
    if (state !== null && badge.dataset.state !== state) document.querySelector("[data-announce]").textContent = badge.dataset.words;
    state = badge.dataset.state;
  };
  const show = (topic, html) => {
    for (const place of all(`[data-topic="${topic}"]`)) {
      const open = [...place.querySelectorAll("details")].map((item) => item.open);
      place.innerHTML = html; // rendered and escaped by the server
      place.querySelectorAll("details").forEach((item, index) => { if (open[index] !== undefined) item.open = open[index]; });
    }
    const current = document.querySelector("[data-current]");
    if (topic.startsWith("state:") && current) {
      const panel = current.querySelector(".panel.state");
      current.dataset.current = ["open", "tripped", "quiet_period", "unknown"].find((word) => panel.classList.contains(word)).toUpperCase();
    }
    if (topic === "banner") announce();
    tick();
  };
  const alive = () => {
    heard = performance.now();
    body.dataset.connection = "live";
  };
  const source = new EventSource(`/events?topics=${encodeURIComponent(topics)}`);
  for (const topic of topics.split(",")) {
    source.addEventListener(topic, (event) => { alive(); show(topic, event.data); });
  }
  source.addEventListener("beat", alive);
  source.addEventListener("signed-out", () => location.reload());
  setInterval(() => {
    const silence = performance.now() - heard;
    for (const age of all("[data-age]")) age.textContent = (silence / 1000).toFixed(1);
    for (const lost of all("[data-lost-for]")) lost.textContent = String(Math.floor(silence / 1000));
    if (silence > LOST_AFTER) body.dataset.connection = "lost";
    // A browser gives up on some failures; a page that is looked at must not.
    if (silence > 3 * LOST_AFTER && source.readyState === EventSource.CLOSED) location.reload();
  }, 200);
  announce();
})();
