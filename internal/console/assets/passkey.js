"use strict";
// The passkey step: the one thing that browsers offer to scripts alone. Texts
// are only ever set as text, and nothing here is markup.
(() => {
  const box = document.getElementById("passkey");
  const go = document.getElementById("go");
  const said = document.getElementById("said");
  if (!box) return;

  const bytes = (text) => {
    const s = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(s, (c) => c.charCodeAt(0));
  };
  const text = (buffer) => {
    let s = "";
    for (const b of new Uint8Array(buffer)) s += String.fromCharCode(b);
    return btoa(s).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  };

  // ask sends one message and returns the answer, or throws what to say.
  const ask = async (path, message) => {
    let r;
    try {
      r = await fetch(path, {
        method: "POST", redirect: "error", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ form: box.dataset.form, ...message }),
      });
    } catch {
      throw new Error("The gateway does not answer. Is it still running?");
    }
    const answer = await r.json().catch(() => ({}));
    if (!r.ok) throw new Error(answer.detail || "That did not work (" + r.status + ").");
    return answer;
  };

  const secret = location.hash.slice(1);

  const signIn = async () => {
    const o = await ask("/sign-in/passkey/ask", {});
    o.challenge = bytes(o.challenge);
    for (const c of o.allowCredentials || []) c.id = bytes(c.id);
    const c = await navigator.credentials.get({ publicKey: o });
    const r = c.response;
    const answer = {
      id: c.id, rawId: text(c.rawId), type: c.type, clientExtensionResults: {},
      response: { clientDataJSON: text(r.clientDataJSON), authenticatorData: text(r.authenticatorData), signature: text(r.signature), userHandle: r.userHandle ? text(r.userHandle) : "" },
    };
    return ask("/sign-in/passkey", { next: box.dataset.next, answer });
  };

  const join = async () => {
    const o = await ask("/join/ask", { secret, name: document.getElementById("name").value, label: "" });
    o.challenge = bytes(o.challenge);
    o.user.id = bytes(o.user.id);
    for (const c of o.excludeCredentials || []) c.id = bytes(c.id);
    const c = await navigator.credentials.create({ publicKey: o });
    const r = c.response;
    const answer = {
      id: c.id, rawId: text(c.rawId), type: c.type, clientExtensionResults: {},
      response: { clientDataJSON: text(r.clientDataJSON), attestationObject: text(r.attestationObject), transports: r.getTransports ? r.getTransports() : [] },
    };
    return ask("/join", { secret, answer });
  };

  const tell = (e) => {
    said.textContent = e.name === "NotAllowedError" ? "Your device did not answer, or you stopped it. Try again."
      : e.name === "InvalidStateError" ? "This device has a passkey of yours already."
      : e.message || "That did not work.";
  };

  const run = async (step) => {
    said.textContent = "";
    go.disabled = true;
    try {
      const { next } = await step();
      location.replace(next);
    } catch (e) {
      tell(e);
      go.disabled = false;
      go.focus();
    }
  };

  if (!window.PublicKeyCredential) {
    said.textContent = "This browser has no passkeys.";
    return;
  }
  if (box.dataset.do === "sign-in") {
    box.hidden = false;
    go.addEventListener("click", () => run(signIn));
    return;
  }

  // The secret is the part of the link that browsers send to nobody. It goes
  // out of the address bar as soon as it was read.
  const sentence = document.getElementById("sentence");
  history.replaceState(null, "", location.pathname);
  ask("/join/look", { secret }).then((i) => {
    const roles = i.roles.length ? i.roles.join(", ") : "no role";
    if (i.known) sentence.textContent = "Add a passkey for " + i.name + ". It will sign in as them, with the roles they have. This link works once, until " + i.until + ".";
    else if (i.first) sentence.textContent = "You are the first operator here: you decide who and what is let in. This link works once, until " + i.until + ".";
    else sentence.textContent = i.by + " invites you as " + (i.name || "a person") + ", with " + (i.roles.length > 1 ? "the roles " : i.roles.length ? "the role " : "") + roles + ". This link works once, until " + i.until + ".";
    document.getElementById("naming").hidden = Boolean(i.name);
    document.getElementById("name").required = !i.name;
    box.hidden = false;
  }).catch((e) => {
    sentence.textContent = "This link cannot be used.";
    tell(e);
  });
  box.addEventListener("submit", (e) => {
    e.preventDefault();
    run(join);
  });
})();
