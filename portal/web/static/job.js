"use strict";

// The steps of a change while it is under way; at its end the page is loaded once more.

const EVERY = 600; // ms between two looks

const job = document.getElementById("job");
const steps = document.getElementById("steps");
look();

async function look() {
  try {
    const response = await fetch(job.dataset.url, { signal: AbortSignal.timeout(5000) });
    const found = (await response.json()).job;
    if (!found || found.state !== "running") {
      location.reload();
      return;
    }
    found.steps.forEach(show);
  } catch (error) {
    // no answer now: the next look may get one
  }
  setTimeout(look, EVERY);
}

function show(step, index) {
  let item = steps.children[index];
  if (!item) {
    item = document.createElement("li");
    item.append(document.createElement("strong"), " ");
    item.append(document.createElement("span"), document.createElement("p"));
    item.children[1].className = "hidden";
    item.children[2].className = "quiet";
    steps.append(item);
  }
  item.dataset.state = step.state;
  item.children[0].textContent = step.name;
  item.children[1].textContent = step.state;
  item.children[2].textContent = step.detail;
}
