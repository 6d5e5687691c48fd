"use strict";
// A page that keeps itself up to date. What arrives is drawn by the console,
// which escapes whatever somebody else wrote, so nothing foreign can open a
// tag; should one of these ever arrive all the same, nothing is drawn.
(() => {
  const never = /<\s*(script|iframe|object|embed|base|link|meta|style|template)\b/i;
  if (window.trustedTypes) {
    // The library wraps what it draws in a template of its own.
    trustedTypes.createPolicy("default", {
      createHTML: (s) => never.test(s.replace('<template class="internal-htmx-wrapper">', "")) ? "" : s,
    });
  }
  // A page says how old it is, and that it is no longer live.
  const stale = (why) => {
    for (const e of document.querySelectorAll("[data-live]")) {
      e.dataset.live = "stopped";
      e.textContent = why;
    }
  };
  let last = Date.now();
  document.addEventListener("htmx:sseMessage", () => {
    last = Date.now();
    for (const e of document.querySelectorAll('[data-live]:not([data-live="live"])')) {
      e.dataset.live = "live";
      e.textContent = "live";
    }
  });
  document.addEventListener("htmx:sseClose", (e) => {
    last = Infinity;
    stale(e.detail && e.detail.type === "message" ? "not live: signed out, or open in other windows" : "not live");
  });
  setInterval(() => {
    if (Date.now() - last > 5000) stale("not live: the gateway does not answer");
  }, 1000);
})();
