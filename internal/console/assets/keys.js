"use strict";
// Keys: j and k go through what is listed, / to the search, ? tells. Nothing
// here is markup, and nothing is needed: every step is a link too.
(() => {
  const typing = (e) => e.target.closest("input, textarea, select, [contenteditable]");
  const rows = () => [...document.querySelectorAll("[data-row]")];
  const help = document.getElementById("keys");
  let going = 0;

  const go = (step) => {
    const all = rows();
    if (!all.length) return;
    const at = all.indexOf(document.activeElement.closest("[data-row]"));
    const next = all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + step))];
    const to = next.matches("a") ? next : next.querySelector("a");
    to.focus();
    next.scrollIntoView({ block: "nearest" });
  };

  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === "Escape") {
      if (typing(e)) e.target.blur();
      else if (help && help.open) return;
      else if (document.activeElement !== document.body) document.activeElement.blur();
      else {
        const up = document.querySelector(".crumb a");
        if (up) up.click();
      }
      return;
    }
    if (typing(e)) return;
    if (Date.now() - going < 1500) {
      going = 0;
      const to = [...document.querySelectorAll("nav a[data-key]")].find((a) => a.dataset.key === e.key);
      if (to) {
        e.preventDefault();
        to.click();
      }
      return;
    }
    switch (e.key) {
      case "j": go(1); break;
      case "k": go(-1); break;
      case "g": going = Date.now(); break;
      case "/": {
        const s = document.querySelector("[data-search]");
        if (!s) return;
        s.focus();
        s.select && s.select();
        break;
      }
      case "?": if (help) help.showModal(); break;
      default: return;
    }
    e.preventDefault();
  });
  const open = document.getElementById("open-keys");
  if (open && help) {
    open.hidden = false;
    open.addEventListener("click", () => help.showModal());
  }
})();
