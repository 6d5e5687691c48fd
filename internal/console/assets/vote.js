"use strict";
// A vote is signed by a passkey, over the digest of what is on the page. The
// question is asked of the gateway anew, so what is signed is what it holds.
(() => {
  const box = document.getElementById("vote");
  if (!box) return;
  const said = document.getElementById("said");
  const buttons = [document.getElementById("refuse"), document.getElementById("approve")];
  const was = buttons.map((b) => b.disabled);
  const reason = document.getElementById("reason");

  const bytes = (text) => {
    const s = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(s, (c) => c.charCodeAt(0));
  };
  const text = (buffer) => {
    let s = "";
    for (const b of new Uint8Array(buffer)) s += String.fromCharCode(b);
    return btoa(s).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  };
  const ask = async (step, message) => {
    let r;
    try {
      r = await fetch("/approvals/" + box.dataset.hold + "/" + step, {
        method: "POST", redirect: "error", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ form: box.dataset.form, ...message }),
      });
    } catch {
      throw new Error("The gateway does not answer. Nothing was decided.");
    }
    const answer = await r.json().catch(() => ({}));
    if (!r.ok) throw new Error(answer.detail || "That did not work (" + r.status + ").");
    return answer;
  };

  const vote = async (consent) => {
    said.textContent = "";
    if (!consent && !reason.value.trim()) {
      said.textContent = "Say why: the agent is told it, and it stays in the log.";
      reason.focus();
      return;
    }
    for (const b of buttons) b.disabled = true;
    try {
      const o = await ask("ask", { consent, reason: reason.value, edits: consent ? box.dataset.edits : "" });
      o.challenge = bytes(o.challenge);
      for (const c of o.allowCredentials || []) c.id = bytes(c.id);
      const c = await navigator.credentials.get({ publicKey: o });
      const r = c.response;
      const { next } = await ask("vote", { answer: {
        id: c.id, rawId: text(c.rawId), type: c.type, clientExtensionResults: {},
        response: { clientDataJSON: text(r.clientDataJSON), authenticatorData: text(r.authenticatorData), signature: text(r.signature), userHandle: r.userHandle ? text(r.userHandle) : "" },
      } });
      location.assign(next);
    } catch (e) {
      said.textContent = e.name === "NotAllowedError" ? "Your device did not answer, or you stopped it. Nothing was decided." : e.message || "That did not work.";
      buttons.forEach((b, i) => { b.disabled = was[i]; });
    }
  };
  buttons[0].addEventListener("click", () => vote(false));
  buttons[1].addEventListener("click", () => vote(true));
})();
