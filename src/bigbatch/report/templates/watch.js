"use strict";
// Asks every two seconds for the runs that are ticked. Text reaches the page as markup that the server has escaped.
const view = document.getElementById("view"), choice = document.getElementById("choice"), news = document.getElementById("news");
let tag = "", asked = 0, waiting = null;

const chosen = () => [...choice.querySelectorAll("input:checked")].map((box) => box.value);

function query() {
  return new URLSearchParams(chosen().map((key) => ["run", key])).toString();
}

function put(part, html) {
  const open = new Set([...part.querySelectorAll("details[open] > summary")].map((one) => one.textContent));
  part.innerHTML = html;
  for (const one of part.querySelectorAll("details > summary")) if (open.has(one.textContent)) one.parentElement.open = true;
}

async function look() {
  clearTimeout(waiting);
  const mine = ++asked;
  try {
    const answer = await fetch("view?" + query(), { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    if (mine !== asked) return;
    if (answer.ok) {
      tag = answer.headers.get("ETag") || "";
      const found = await answer.json();
      if (mine !== asked) return;
      const focused = document.activeElement && document.activeElement.value;
      put(choice, found.choice);
      if (focused) { const box = choice.querySelector(`input[value="${CSS.escape(focused)}"]`); if (box) box.focus(); }
      put(view, found.view);
    } else if (answer.status !== 304) throw new Error(answer.status);
    news.textContent = "Looked at " + new Date().toLocaleTimeString();
    news.className = "";
  } catch (error) {
    news.textContent = "The page stands still: bigbatch watch does not answer. Is it still running?";
    news.className = "bad";
  }
  if (mine === asked) waiting = setTimeout(look, document.hidden ? 20000 : 2000);
}

choice.addEventListener("change", () => {
  tag = "";
  history.replaceState(null, "", "?" + query());
  look();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
look();
