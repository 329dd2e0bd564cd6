// The voting page. What comes from the server is only ever text or an image's address.
"use strict";

const UNDO_MS = 10000, RETRY_MS = 2000, LETTERS = { a: "a", b: "b", t: "tie", x: "both_bad" };
const at = (id) => document.getElementById(id);
const images = at("images"), answers = [...document.querySelectorAll("[data-say]")];
let shown = null;      // the question on the screen: {token, prompt, image_a, image_b} or {token, prompt, images}
let last = null;       // the token of the vote that can be taken back, with the mode it was in
let four = false, busy = true, paused = false, forget = 0, votes = 0;

const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const say = (text) => { at("said").textContent = text; };
const count = (n) => {
  votes = n;
  sessionStorage.setItem("votes", n);
  at("progress").textContent = n === 1 ? "1 vote" : `${n} votes`;
};

// Ask the server until there is an answer: a token is good once, so asking again counts nothing twice.
async function ask(path, body) {
  const how = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
  for (let tries = 0; ; tries++) {
    try {
      const answer = await fetch(path, how);
      if (answer.status === 429 || answer.status >= 502 && answer.status <= 504) throw new Error("busy");
      const said = await answer.json();
      return { status: answer.status, tries, ...said };
    } catch {
      say(navigator.onLine ? "No answer yet; trying again." : "You are offline. Your vote is kept here and sent when you are back.");
      await Promise.race([wait(RETRY_MS), new Promise((done) => addEventListener("online", done, { once: true }))]);
    }
  }
}

async function next() {
  busy = true;
  enable();
  const said = await ask(four ? "/api/ranking" : "/api/pair");
  if (said.status === 200) return show(said);
  images.replaceChildren();
  shown = null;
  at("prompt").textContent = said.detail;
  sessionStorage.removeItem("shown");
}

// Nothing of the new question is seen before all of its images are here: a slow one tells nothing.
async function show(question) {
  busy = true;
  enable();
  const wanted = question.images ?? [question.image_a, question.image_b];
  const kind = Boolean(question.images);
  const names = kind ? ["First image", "Second image", "Third image", "Fourth image"] : ["Left image, A", "Right image, B"];
  const loaded = await Promise.all(wanted.map(async (address, place) => {
    for (let tries = 0; ; tries++) {
      const image = new Image();
      image.src = tries ? `${address}?${tries}` : address;
      try { await image.decode(); } catch {
        if (navigator.onLine && tries > 2) return null;
        await wait(RETRY_MS);
        continue;
      }
      image.alt = names[place];
      if (Math.max(image.naturalWidth, image.naturalHeight) <= 96) image.className = "small";
      return image;
    }
  }));
  if (loaded.includes(null)) { say("An image could not be loaded; here are others."); return next(); }
  setMode(kind);
  shown = question;
  sessionStorage.setItem("shown", JSON.stringify(question));
  at("prompt").textContent = question.prompt;
  images.replaceChildren(...loaded.map((image, place) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.dataset.index = place;
    button.append(image);
    item.append(button);
    if (!kind) button.addEventListener("click", () => vote(place ? "b" : "a"));
    else movable(button);
    return item;
  }));
  number();
  busy = false;
  enable();
}

function enable() {
  const off = busy || paused;
  for (const button of [...answers, at("send")]) button.disabled = off;
  at("undo").disabled = off || !last;
  at("main").setAttribute("aria-busy", String(busy));
}

async function send(path, body) {
  if (busy || paused || !shown) return;
  busy = true;
  enable();
  const question = shown, mode = four, said = await ask(path, { token: question.token, ...body });
  const counted = said.status === 409 && said.tries > 0;   // the first try arrived, its answer did not
  sessionStorage.removeItem("shown");
  if (said.status === 200) {
    count(said.votes);
    say(mode ? `They were, as first shown: ${said.models.join(", ")}` : `Left was ${said.models[0]}, right ${said.models[1]}`);
  } else if (counted) { count(votes + 1); say(""); } else say(said.detail);
  last = said.status === 200 || counted ? question.token : null;
  clearTimeout(forget);
  forget = setTimeout(() => { last = null; enable(); }, UNDO_MS);
  await next();
}

const vote = (outcome) => send("/api/vote", { outcome });

function rank() {
  const ranks = [0, 0, 0, 0];
  [...images.querySelectorAll("button")].forEach((button, place) => { ranks[button.dataset.index] = place + 1; });
  return send("/api/ranking", { ranks });
}

async function undo() {
  if (busy || paused || !last) return;
  busy = true;
  const said = await ask("/api/undo", { token: last });
  last = null;
  if (said.status !== 200) { say(said.detail); busy = false; enable(); return; }
  count(said.votes);
  say("The last vote was taken back.");
  await show(said);
}

// Ranking: an image is dragged by pointer, or moved by keys while it has the focus.
function number() {
  [...images.children].forEach((item, place) => {
    item.dataset.place = place + 1;
    if (four) item.firstChild.setAttribute("aria-label", `${item.querySelector("img").alt}, place ${place + 1} of 4`);
  });
}

function move(button, place) {
  const items = [...images.children], item = button.parentElement, from = items.indexOf(item);
  if (place < 0 || place > 3 || place === from) return;
  images.insertBefore(item, items[place > from ? place + 1 : place] ?? null);
  number();
}

// The list holds the pointer, because an image that is moved in the document would lose it.
let moving = null;

function movable(button) {
  button.addEventListener("pointerdown", (event) => {
    if (busy || paused) return;
    moving = button;
    images.setPointerCapture(event.pointerId);
    button.classList.add("moving");
  });
}

function drag(event) {
  const there = [...images.children].findIndex((item) => {
    const box = item.getBoundingClientRect();
    return event.clientX > box.left && event.clientX < box.right && event.clientY > box.top && event.clientY < box.bottom;
  });
  if (moving && there >= 0) move(moving, there);
}

function drop() {
  moving?.classList.remove("moving");
  moving = null;
}

function setMode(value) {
  four = value;
  images.className = four ? "four" : "";
  at("answers").hidden = four;
  at("order").hidden = !four;
  at("mode-pair").setAttribute("aria-pressed", String(!four));
  at("mode-four").setAttribute("aria-pressed", String(four));
}

function change(value) {
  if (busy || four === value) return;
  four = value;
  next();
}

function pause() {
  paused = !paused;
  images.classList.toggle("waiting", paused);
  at("pause").setAttribute("aria-pressed", String(paused));
  say(paused ? "Paused. Press P to go on." : "");
  enable();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key.toLowerCase(), image = document.activeElement.closest?.("#images button");
  if (key === "z") undo();
  else if (key === "p") pause();
  else if (!four && key in LETTERS) vote(LETTERS[key]);
  else if (four && image && (key === "arrowleft" || key === "arrowright")) {
    move(image, [...images.children].indexOf(image.parentElement) + (key === "arrowleft" ? -1 : 1));
    image.focus();
  } else if (four && image && "1234".includes(key)) { move(image, Number(key) - 1); image.focus(); }
  else if (four && key === "enter" && (image || document.activeElement === document.body)) rank();
  else return;
  event.preventDefault();
});
images.addEventListener("pointermove", drag);
for (const name of ["pointerup", "pointercancel"]) images.addEventListener(name, drop);
for (const button of answers) button.addEventListener("click", () => vote(button.dataset.say));
at("send").addEventListener("click", rank);
at("undo").addEventListener("click", undo);
at("pause").addEventListener("click", pause);
at("mode-pair").addEventListener("click", () => change(false));
at("mode-four").addEventListener("click", () => change(true));

// A page that is loaded again shows what it showed: nobody picks questions by reloading.
count(Number(sessionStorage.getItem("votes") ?? 0));
const kept = sessionStorage.getItem("shown");
if (kept) show(JSON.parse(kept)); else next();
