"use strict";
const share = (value) => `${Math.round(100 * value)}%`;
const of = ([agreeing, counted]) => counted ? `${share(agreeing / counted)} of ${counted}` : "–";

fetch("/api/raters").then(async (answer) => {
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.detail);
  for (const r of said.raters) {
    const row = document.getElementById("raters").insertRow();
    const cells = [r.rater, r.votes, share(r.left), share(r.ties), r.seconds.toFixed(1),
      of(r.repeats), of(r.known), of(r.arena), r.last.slice(0, 16).replace("T", " ")];
    for (const text of cells) row.insertCell().textContent = text;
  }
  if (!said.raters.length) document.getElementById("said").textContent = "No votes yet.";
}).catch((error) => { document.getElementById("said").textContent = error.message; });
