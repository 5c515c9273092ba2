"use strict";

// The page works without this file. With it, the same form is sent in the background and the
// result is taken from the page that comes back, so that it is written in one place: the template.

const bench = document.getElementById("bench");
startBench();

function startBench() {
  const result = document.getElementById("result");
  const preview = document.getElementById("preview");
  const hint = document.getElementById("stage-hint");
  const input = document.getElementById("file");
  const what = document.getElementById("what"); // what is known of the values
  let running = null; // AbortController of the request whose answer is awaited
  let shown = null; // object URL of the preview
  let again = null; // asks anew about the tile that is shown
  const many = new ManyTiles(bench, classifyFile);

  input.multiple = true; // without this script, the form sends one
  input.classList.add("enhanced");
  document.querySelector("label[for=file]").classList.add("enhanced");
  document.getElementById("by-hand").hidden = false;
  document.getElementById("submit").hidden = true; // choosing is enough
  document.getElementById("why-too").hidden = true; // each result has its button

  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = ""; // so that choosing the same file again is a change
    give(files);
  });
  result.addEventListener("click", (event) => {
    if (!event.target.matches("a[href='#scale']")) return;
    event.preventDefault();
    what.open = true;
    document.getElementById("scale").focus();
  });
  for (const choice of bench.querySelectorAll("select")) {
    choice.addEventListener("change", () => {
      if (many.shown) many.again();
      if (again) again();
    });
  }

  bench.addEventListener("submit", (event) => {
    event.preventDefault();
    const button = event.submitter;
    if (!button || button.name !== "sample") return;
    const name = button.textContent.trim();
    many.close();
    show(button.querySelector("img").src, name);
    mark(button);
    classify("sample", button.value, name);
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
    give([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    give([...event.clipboardData.files]);
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

  function give(files) {
    if (files.length === 1) {
      many.close();
      classifyFile(files[0]);
    } else if (files.length) {
      stop();
      again = null;
      mark(null);
      preview.hidden = true;
      hint.textContent = files.length + " tiles chosen";
      hint.hidden = false;
      fill("many-chosen");
      many.start(files);
    }
  }

  function stop() {
    if (running) running.abort();
    running = null;
    result.removeAttribute("aria-busy");
  }

  function classifyFile(file) {
    const url = URL.createObjectURL(file);
    show(url, file.name);
    shown = url;
    mark(null);
    if (file.size > Number(bench.dataset.maxBytes)) {
      stop();
      again = null;
      fill("too-large");
      return;
    }
    classify("file", file, file.name);
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

  async function classify(field, value, name) {
    again = () => classify(field, value, name);
    const body = new FormData();
    body.append(field, value);
    for (const choice of bench.querySelectorAll("select")) body.append(choice.name, choice.value);
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
      if (answer) {
        result.replaceChildren(...answer.children);
        offerWhy(result, body, bench.action);
        if (result.querySelector("[data-code=unknown_scale]")) what.open = true;
      } else fill("unreachable"); // something between us and the portal has answered
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
