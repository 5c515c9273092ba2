"use strict";

// Scenes on their way to a map. The pages work without this file; with it a file's way to the
// portal can be seen and stopped, and the progress of a map is shown without loading the page anew.

const EVERY = 1000; // ms between two looks at the progress

const upload = document.getElementById("upload");
const job = document.getElementById("job");
if (upload) upload.addEventListener("submit", send);
if (job) setTimeout(look, EVERY);

function send(event) {
  event.preventDefault();
  const sending = document.getElementById("sending");
  const words = document.getElementById("sending-words");
  const bar = sending.querySelector("progress");
  const button = upload.querySelector("[type=submit]");
  refuse();
  if (document.getElementById("file").files[0].size > Number(upload.dataset.maxBytes)) {
    refuse(document.getElementById("too-large").content.cloneNode(true));
    return;
  }
  const request = new XMLHttpRequest(); // fetch does not say how much was sent
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    bar.max = total;
    bar.value = loaded;
    words.textContent = loaded < total ? "Sending the file" : "Looking at it";
    if (loaded >= total) bar.removeAttribute("value");
  });
  request.addEventListener("load", () => {
    const problem = request.responseXML && request.responseXML.querySelector(".problem");
    if (request.status < 400) location.assign(request.responseURL);
    else refuse(problem || document.getElementById("unreachable").content.cloneNode(true));
  });
  request.addEventListener("error", () => {
    refuse(document.getElementById("unreachable").content.cloneNode(true));
  });
  request.addEventListener("loadend", () => {
    sending.hidden = true;
    button.disabled = false;
  });
  sending.querySelector("button").onclick = () => request.abort();
  bar.value = 0;
  words.textContent = "Sending the file";
  sending.hidden = false;
  button.disabled = true;
  request.open("POST", upload.action);
  request.responseType = "document";
  request.send(new FormData(upload));
}

function refuse(...why) {
  document.getElementById("refused").replaceChildren(...why);
}

async function look() {
  try {
    const signal = AbortSignal.timeout(5000);
    const answer = await fetch(location.href, { signal });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = page.getElementById("job");
    if (answer.status < 500 && (!found || found.dataset.state !== job.dataset.state)) {
      location.reload();
      return;
    }
    const progress = page.getElementById("progress");
    if (progress) document.getElementById("progress").replaceChildren(...progress.children);
  } catch (error) {
    // no answer now: the next look may get one
  }
  setTimeout(look, EVERY);
}
