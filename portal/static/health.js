"use strict";

// The state of the model server, in the header of every page.

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
