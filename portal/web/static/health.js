"use strict";

// The state of the model server, and of the portal's database, in the header of every page.

const CALM = 15000; // ms between two looks when all is well
const WORRIED = 4000; // ms when it is not
const AGAIN = 1000; // ms until the second try of a look that got no answer

const health = document.getElementById("health");
const words = JSON.parse(health.dataset.words);
let timer = null;
let unanswered = 0;
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
    if (answer.status in words) state = answer.status;
    // of the portal's own parts, not of a model: predictions work without the database
    const ours = answer.failures.some((failure) => failure.model === null);
    if (state === "degraded" && ours) state = "database";
  } catch (error) {
    // no answer, or none of the portal's: the state is unknown
  }
  unanswered = state === "unknown" ? unanswered + 1 : 0;
  const doubtful = unanswered === 1; // a page that is being left ends its requests, too
  if (!doubtful) {
    health.dataset.state = state;
    const text = document.getElementById("health-text");
    if (text.textContent !== words[state]) text.textContent = words[state]; // announced once
  }
  clearTimeout(timer);
  const pause = doubtful ? AGAIN : state === "ok" ? CALM : WORRIED;
  if (!document.hidden) timer = setTimeout(watchHealth, pause);
}
