"use strict";

// The page works without this file. With it, the same form is sent in the background and the
// result is taken from the page that comes back, so that it is written in one place: the template.

// --- the tile ------------------------------------------------------------------------------------

const bench = document.getElementById("bench");
if (bench) startBench();

function startBench() {
  const result = document.getElementById("result");
  const preview = document.getElementById("preview");
  const hint = document.getElementById("stage-hint");
  const input = document.getElementById("file");
  let running = null; // AbortController of the request whose answer is awaited
  let shown = null; // object URL of the preview

  input.classList.add("enhanced");
  document.querySelector("label[for=file]").classList.add("enhanced");
  document.getElementById("by-hand").hidden = false;
  document.getElementById("submit").hidden = true; // choosing is enough

  input.addEventListener("change", () => {
    if (input.files.length) classifyFile(input.files[0]);
  });

  bench.addEventListener("submit", (event) => {
    event.preventDefault();
    const button = event.submitter;
    if (!button || button.name !== "sample") return;
    const body = new FormData();
    body.append("sample", button.value);
    const image = button.querySelector("img");
    show(image.src, button.textContent.trim());
    mark(button);
    classify(body, button.textContent.trim());
  });

  // Dropping beside the stage must not make the browser leave the page for the image.
  let depth = 0; // dragenter and dragleave come for every element on the way
  document.addEventListener("dragenter", (event) => {
    event.preventDefault();
    depth += 1;
    bench.classList.add("dropping");
  });
  document.addEventListener("dragleave", () => {
    depth -= 1;
    if (depth <= 0) stopDropping();
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    stopDropping();
    if (event.dataTransfer.files.length) classifyFile(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) classifyFile(event.clipboardData.files[0]);
  });
  preview.addEventListener("error", () => {
    preview.hidden = true;
    hint.textContent = "This browser cannot show this file.";
    hint.hidden = false;
  });

  function stopDropping() {
    depth = 0;
    bench.classList.remove("dropping");
  }

  function classifyFile(file) {
    const url = URL.createObjectURL(file);
    show(url, file.name);
    shown = url;
    mark(null);
    input.value = ""; // so that choosing the same file again is a change
    if (file.size > Number(bench.dataset.maxBytes)) {
      if (running) running.abort();
      running = null;
      fill("too-large");
      return;
    }
    const body = new FormData();
    body.append("file", file);
    classify(body, file.name);
  }

  function show(url, name) {
    if (shown) URL.revokeObjectURL(shown);
    shown = null;
    hint.hidden = true;
    preview.hidden = false;
    preview.alt = "The chosen tile: " + name;
    preview.src = url;
  }

  function mark(chosen) {
    for (const button of bench.querySelectorAll("button[name=sample]")) {
      button.setAttribute("aria-pressed", String(button === chosen));
    }
  }

  async function classify(body, name) {
    if (running) running.abort(); // the newest choice wins
    const mine = new AbortController();
    running = mine;
    result.setAttribute("aria-busy", "true");
    // An answer within a blink replaces the former one without a flicker in between.
    const slow = setTimeout(() => {
      fill("waiting");
      result.querySelector("[data-name]").textContent = name;
    }, 150);
    try {
      const response = await fetch(bench.action, { method: "POST", body, signal: mine.signal });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const answer = page.getElementById("result");
      if (mine !== running) return;
      if (answer) result.replaceChildren(...answer.children);
      else fill("unreachable"); // something between us and the portal has answered
      if (response.status >= 500) watchHealth(); // the state shown must not contradict the answer
    } catch (error) {
      if (mine !== running) return;
      fill("unreachable");
    } finally {
      clearTimeout(slow);
      if (mine === running) {
        running = null;
        result.removeAttribute("aria-busy");
        reveal();
      }
    }
  }

  function reveal() {
    const box = result.getBoundingClientRect();
    if (box.top < 0 || box.top > window.innerHeight * 0.7) {
      result.scrollIntoView({ block: "nearest" });
    }
  }

  function fill(template) {
    result.replaceChildren(document.getElementById(template).content.cloneNode(true));
  }
}

// --- the state of the model server ---------------------------------------------------------------

const HEALTH = {
  ok: "Model server ready",
  loading: "Model is loading",
  degraded: "A model does not work",
  down: "Model server down",
  unknown: "The portal does not answer",
};
const CALM = 15000; // ms between two looks when all is well
const WORRIED = 4000; // ms when it is not

const health = document.getElementById("health");
let timer = null;
watchHealth();
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) watchHealth();
});

async function watchHealth() {
  clearTimeout(timer);
  let state = "unknown";
  try {
    const response = await fetch(health.dataset.url, { signal: AbortSignal.timeout(5000) });
    const answer = await response.json();
    if (answer.status in HEALTH) state = answer.status;
  } catch (error) {
    // no answer, or none of the portal's: the state is unknown
  }
  if (health.dataset.state !== state || state === "unknown") {
    health.dataset.state = state;
    const text = document.getElementById("health-text");
    if (text.textContent !== HEALTH[state]) text.textContent = HEALTH[state]; // announced once
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(watchHealth, state === "ok" ? CALM : WORRIED);
}
