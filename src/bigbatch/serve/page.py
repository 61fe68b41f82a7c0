"""A page to try the server by hand: no library, nothing of another place, texts never read as HTML."""

from __future__ import annotations

import base64
import hashlib

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 46rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; }
label { display: block; margin: .8rem 0 .2rem; font-weight: 600; }
select, input, textarea, button { font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; }
textarea, pre { font-family: ui-monospace, monospace; font-size: .9rem; }
textarea { min-height: 9rem; }
button { margin: .8rem 0; min-height: 2.8rem; font-weight: 600; cursor: pointer; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #8886; padding: .6rem; min-height: 3rem; }
.quiet { opacity: .75; font-size: .9rem; }
"""
_SCRIPT = """
"use strict";
const at = (id) => document.getElementById(id);
const head = () => {
  const found = {"Content-Type": "application/json"};
  if (at("token").value) found.Authorization = "Bearer " + at("token").value;
  return found;
};
let examples = {};
function choose() { at("body").value = JSON.stringify(examples[at("path").value] || {}, null, 2); }
async function look() {
  const state = await (await fetch("ready")).json();
  at("models").textContent = Object.entries(state.models)
    .map(([name, about]) => name + " (" + about.task + ")").join(", ") + ": " + state.status;
  const answer = await fetch("openapi.json", {headers: head()});
  if (!answer.ok) { at("note").textContent = "Give the token, then choose what to ask."; return; }
  at("note").textContent = "";
  const paths = (await answer.json()).paths;
  const given = new Set(Object.values(state.models).flatMap((about) => about.paths));
  at("path").replaceChildren();
  for (const [path, ways] of Object.entries(paths)) {
    if (!ways.post || !given.has(path)) continue;
    examples[path] = ways.post.requestBody.content["application/json"].example;
    const one = document.createElement("option");
    one.value = path; one.textContent = path + " \\u2013 " + ways.post.summary.split(":")[0].replaceAll("`", "");
    at("path").append(one);
  }
  choose();
}
async function ask() {
  const out = at("answer"), started = performance.now();
  out.textContent = ""; at("time").textContent = "\\u2026"; at("ask").disabled = true;
  try {
    const answer = await fetch(at("path").value.slice(1), {method: "POST", headers: head(), body: at("body").value});
    if ((answer.headers.get("content-type") || "").startsWith("text/event-stream")) {
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) out.textContent += part.value;
    } else {
      const text = await answer.text();
      try { out.textContent = JSON.stringify(JSON.parse(text), null, 2); } catch { out.textContent = text; }
    }
    at("time").textContent = answer.status + ", " + Math.round(performance.now() - started) + " ms";
  } catch (error) { at("time").textContent = String(error); }
  at("ask").disabled = false;
}
at("path").addEventListener("change", choose);
at("token").addEventListener("change", look);
at("ask").addEventListener("click", ask);
look();
"""
PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>bigbatch</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>{_STYLE}</style></head><body>
<h1>bigbatch serve</h1>
<p id="models" class="quiet"></p>
<label for="token">Token (if the server asks for one)</label><input id="token" type="password" autocomplete="off">
<p id="note" class="quiet"></p>
<label for="path">What to ask</label><select id="path"></select>
<label for="body">Request</label><textarea id="body" spellcheck="false"></textarea>
<button id="ask">Ask</button>
<label for="answer">Answer <span id="time" class="quiet"></span></label><pre id="answer" aria-live="polite"></pre>
<p class="quiet"><a href="openapi.json">openapi.json</a> &middot; <a href="metrics">metrics</a> &middot;
<a href="health">health</a> &middot; <a href="ready">ready</a></p>
<script>{_SCRIPT}</script></body></html>
"""


def _hashed(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_hashed(_SCRIPT)}; style-src {_hashed(_STYLE)}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The browser runs this script, loads nothing of elsewhere, and shows the page in nobody's frame."""
