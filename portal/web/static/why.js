"use strict";

// The button "Why?" of each result: it asks for the page once more, with the heat maps, takes them
// from it, and from then on shows and hides them.

// result: the element with the answers to the form data `body`, which went to `action`
function offerWhy(result, body, action) {
  const parts = [...result.querySelectorAll(".why")];
  let loading = false;
  for (const part of parts) {
    const button = part.querySelector("button");
    button.hidden = false;
    button.addEventListener("click", async () => {
      if (loading) return;
      if (part.querySelector("figure")) {
        show(part, button.getAttribute("aria-pressed") !== "true");
        return;
      }
      loading = true;
      await load();
      loading = false;
    });
  }

  async function load() {
    for (const part of parts) {
      const progress = document.createElement("progress");
      progress.setAttribute("aria-label", "Looking for what speaks for the class");
      part.querySelector(".why-map").replaceChildren(progress);
      show(part, true);
    }
    const asked = new FormData();
    for (const [name, value] of body) asked.append(name, value);
    asked.append("why", "1");
    let page = null;
    try {
      const response = await fetch(action, { method: "POST", body: asked });
      page = new DOMParser().parseFromString(await response.text(), "text/html");
    } catch (error) {
      page = document.implementation.createHTMLDocument(); // without maps: said below
    }
    const maps = page.querySelectorAll(".why-map");
    parts.forEach((part, i) => {
      if (maps[i] && maps[i].querySelector("figure")) fill(part, maps[i]);
      else fail(part, page.querySelector(".problem p"));
    });
  }

  function fill(part, map) {
    part.querySelector(".why-map").replaceChildren(...map.children);
    const ground = part.querySelector(".why-ground");
    const preview = document.getElementById("preview");
    ground.hidden = preview.hidden;
    if (!preview.hidden) ground.src = preview.src;
    const strength = part.querySelector(".strength");
    strength.hidden = false;
    strength.querySelector("input").addEventListener("input", (event) => {
      part.querySelector(".heat").style.opacity = event.target.value / 100;
    });
  }

  function fail(part, problem) {
    const words = document.createElement("p");
    words.className = "failed";
    words.textContent = problem
      ? problem.textContent
      : "The portal cannot be reached. Check the connection, then ask again.";
    part.querySelector(".why-map").replaceChildren(words);
    part.querySelector("button").setAttribute("aria-pressed", "false"); // asks again
  }

  function show(part, visible) {
    part.querySelector("button").setAttribute("aria-pressed", String(visible));
    part.querySelector(".why-map").hidden = !visible;
  }
}
