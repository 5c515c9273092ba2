"use strict";

// Many tiles: they are sent in small batches, and a table is filled as the answers come.

const PER_REQUEST = 16; // tiles: few enough for a progress that moves
const MOST = 1000; // tiles in one table
const ATTEMPTS = 5; // of a request that the portal is too busy for

class ManyTiles {
  // open: called with a file that is to be looked at alone
  constructor(bench, open) {
    this.bench = bench;
    this.open = open;
    this.panel = document.getElementById("many");
    this.table = document.getElementById("many-table");
    this.tiles = [];
    this.sides = []; // what was asked: {model, version, name}
    this.known = {}; // what was said of the values: {scale, look}
    this.words = JSON.parse(bench.dataset.warnings); // code -> words
    this.running = null;
    this.sorted = { column: null, down: false };
    for (const button of this.panel.querySelectorAll("[data-download]")) {
      button.addEventListener("click", () => this.download(button.dataset.download));
    }
  }

  get shown() {
    return !this.panel.hidden;
  }

  close() {
    if (this.running) this.running.abort();
    this.running = null;
    for (const tile of this.tiles) URL.revokeObjectURL(tile.url);
    this.tiles = [];
    this.panel.hidden = true;
  }

  start(files) {
    this.close();
    this.left = Math.max(files.length - MOST, 0);
    this.tiles = files.slice(0, MOST).map((file, index) => {
      return { file, index, url: URL.createObjectURL(file), answers: [], row: null };
    });
    this.panel.hidden = false;
    this.again();
    document.getElementById("many-title").focus({ preventScroll: true });
    this.panel.scrollIntoView({ block: "nearest" });
  }

  // Ask about the same tiles with the models that are chosen now.
  async again() {
    if (this.running) this.running.abort();
    const mine = new AbortController();
    this.running = mine;
    this.sides = chosenSides(this.bench);
    this.known = Object.fromEntries(
      ["scale", "look"].map((id) => [id, document.getElementById(id).value]),
    );
    for (const tile of this.tiles) tile.answers = this.sides.map(() => null);
    this.drawTable();
    this.setProgress();
    try {
      for (const group of this.groups()) {
        for (let side = 0; side < this.sides.length; side += 1) {
          const answers = await this.ask(group, this.sides[side], mine.signal);
          if (mine !== this.running) return;
          group.forEach((tile, i) => {
            tile.answers[side] = answers[i];
            const found = answers[i].prediction;
            if (found) this.sides[side].name = found.model + " " + found.version;
          });
        }
        for (const tile of group) this.drawRow(tile);
        this.setProgress();
      }
    } catch (error) {
      if (mine !== this.running || error.name === "AbortError") return;
      throw error;
    }
    this.running = null;
    this.drawHead();
    this.setProgress();
  }

  // Tiles in the portions in which they are sent; those that are too large are answered here.
  *groups() {
    const limit = Number(this.bench.dataset.maxBytes);
    const total = Number(this.bench.dataset.maxBatchBytes) / 2;
    let group = [];
    let bytes = 0;
    for (const tile of this.tiles) {
      if (tile.file.size > limit) {
        const message = `Larger than ${+(limit / 1024 / 1024).toPrecision(3)} MB.`;
        tile.answers.fill({ prediction: null, error: { code: "too_large", message } });
        this.drawRow(tile);
        continue;
      }
      if (group.length === PER_REQUEST || (group.length && bytes + tile.file.size > total)) {
        yield group;
        group = [];
        bytes = 0;
      }
      group.push(tile);
      bytes += tile.file.size;
    }
    if (group.length) yield group;
  }

  // The answers to a group, each {prediction, error}; a failure of the request is that of each.
  async ask(group, side, signal) {
    const body = new FormData();
    for (const tile of group) body.append("files", tile.file);
    for (const name of ["scale", "look"]) body.append(name, this.known[name]);
    if (side.model) {
      body.append("model", side.model);
      body.append("version", side.version);
    }
    let error = { code: "unreachable", message: "The portal cannot be reached." };
    for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
      let response;
      try {
        response = await fetch(this.bench.dataset.batch, { method: "POST", body, signal });
        const answer = await response.json();
        if (response.ok) return answer.results;
        error = answer.error;
      } catch (problem) {
        if (problem.name === "AbortError") throw problem;
        break;
      }
      if (response.status !== 503) break;
      if (attempt < ATTEMPTS) {
        const seconds = Number(response.headers.get("Retry-After")) || 1;
        await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
        signal.throwIfAborted();
      }
    }
    watchHealth();
    return group.map(() => ({ prediction: null, error }));
  }

  // --- the table ---------------------------------------------------------------------------------

  get columns() {
    const two = this.sides.length > 1;
    const columns = [{ title: "Tile", key: (tile) => tile.file.name }];
    this.sides.forEach((side, i) => {
      const found = (tile) => tile.answers[i] && tile.answers[i].prediction;
      const suffix = two ? ", " + side.name : "";
      columns.push({
        title: "Class" + suffix,
        key: (tile) => (found(tile) ? inWords(found(tile).class_name) : "~"),
      });
      columns.push({
        title: "Confidence" + suffix,
        number: true,
        key: (tile) => (found(tile) ? found(tile).confidence : 2),
      });
      columns.push({
        title: "Prediction set" + suffix,
        key: (tile) => (found(tile) && labels(found(tile)).map(inWords).join(", ")) || "~",
      });
      columns.push({
        title: "Warnings" + suffix,
        key: (tile) => (found(tile) && this.doubts(found(tile)).join(", ")) || "~",
      });
    });
    columns.push({ title: "Mark", key: (tile) => marks(tile).join(", ") || "~" });
    return columns;
  }

  drawTable() {
    this.sorted = { column: null, down: false };
    this.drawHead();
    this.table.tBodies[0].replaceChildren();
    for (const tile of this.tiles) {
      tile.row = this.table.tBodies[0].insertRow();
      this.drawRow(tile);
    }
  }

  drawHead() {
    const row = document.createElement("tr");
    row.append(element("th", { scope: "col" }));
    row.firstChild.append(element("span", { className: "hidden", textContent: "Picture" }));
    this.columns.forEach((column, i) => {
      const head = element("th", { scope: "col", className: column.number ? "number" : "" });
      const button = element("button", { type: "button", textContent: column.title });
      const active = this.sorted.column === i;
      head.ariaSort = active ? (this.sorted.down ? "descending" : "ascending") : "none";
      button.addEventListener("click", () => this.sort(i));
      head.append(button);
      row.append(head);
    });
    const buttons = () => [...this.table.tHead.querySelectorAll("button")];
    const focused = buttons().indexOf(document.activeElement);
    this.table.tHead.replaceChildren(row);
    if (focused >= 0) buttons()[focused].focus();
  }

  drawRow(tile) {
    const picture = element("td", { className: "thumb" });
    const image = element("img", { src: tile.url, alt: "", width: 48, height: 48 });
    image.addEventListener("error", () => image.remove()); // a format that browsers do not show
    picture.append(image);
    const name = element("th", { scope: "row" });
    const open = element("button", { type: "button", className: "link" });
    open.textContent = tile.file.name;
    open.addEventListener("click", () => {
      this.open(tile.file);
      document.getElementById("result").focus({ preventScroll: true });
      this.bench.scrollIntoView({ block: "start" });
    });
    name.append(open);
    const cells = [picture, name];
    for (const answer of tile.answers) {
      const verdict = element("td");
      const confidence = element("td", { className: "number" });
      const set = element("td");
      const warnings = element("td");
      if (!answer) verdict.textContent = "...";
      else if (answer.prediction) {
        verdict.textContent = inWords(answer.prediction.class_name);
        confidence.textContent = inPercent(answer.prediction.confidence);
        set.textContent = labels(answer.prediction).map(inWords).join(", ");
        for (const words of this.doubts(answer.prediction)) {
          warnings.append(element("span", { className: "mark", textContent: words }), " ");
        }
      } else {
        verdict.className = "failed";
        verdict.textContent = answer.error.message;
      }
      cells.push(verdict, confidence, set, warnings);
    }
    const mark = element("td");
    for (const word of marks(tile)) {
      mark.append(element("span", { className: "mark", textContent: word }), " ");
    }
    tile.row.replaceChildren(...cells, mark);
  }

  // The warnings of an answer in words; that nobody looked is none.
  doubts(prediction) {
    const codes = prediction.warnings.map((warning) => warning.code);
    return codes.filter((code) => code !== "not_judged").map((code) => this.words[code] || code);
  }

  sort(column) {
    const down = this.sorted.column === column && !this.sorted.down;
    this.sorted = { column, down };
    const key = this.columns[column].key;
    const order = [...this.tiles].sort((a, b) => {
      const [first, second] = [key(a), key(b)];
      const way =
        typeof first === "number"
          ? first - second
          : first.localeCompare(second, "en", { numeric: true });
      return (down ? -way : way) || a.index - b.index;
    });
    this.table.tBodies[0].append(...order.map((tile) => tile.row));
    this.drawHead();
  }

  setProgress() {
    const done = this.tiles.filter((tile) => tile.answers.every(Boolean));
    const failed = done.filter((tile) => tile.answers.some((answer) => answer.error)).length;
    const uncertain = done.filter((tile) => marks(tile).includes("uncertain")).length;
    const differ = done.filter((tile) => marks(tile).includes("differ")).length;
    const found = done.flatMap((tile) => tile.answers.map((answer) => answer.prediction));
    const predictions = found.filter(Boolean);
    const warned = predictions.filter((prediction) => this.doubts(prediction).length).length;
    const all = this.tiles.length;
    const progress = document.getElementById("many-progress");
    progress.max = all;
    progress.value = done.length;
    progress.hidden = done.length === all;
    document.getElementById("many-title").textContent = `${all} tiles`;
    const words = [`${done.length - failed} classified`];
    if (failed) words.push(`${failed} not`);
    if (uncertain) words.push(`${uncertain} uncertain`);
    if (warned) words.push(`${warned} with a warning`);
    if (this.sides.length > 1) words.push(`the two differ on ${differ}`);
    else if (this.sides[0].name) words.push(`by ${this.sides[0].name}`);
    if (this.left) words.push(`${this.left} more left out: at most ${MOST} at a time`);
    // Announced once, at the end: every step would be too much to listen to.
    const busy = done.length < all;
    document.getElementById("many-summary").textContent = busy ? "" : words.join(", ") + ".";
    const warnings = predictions.flatMap((prediction) => prediction.warnings);
    const unjudged = warnings.find((warning) => warning.code === "not_judged");
    const note = document.getElementById("many-not-judged");
    note.hidden = busy || !unjudged;
    note.textContent = unjudged ? unjudged.message : "";
    for (const button of this.panel.querySelectorAll("[data-download]")) button.disabled = busy;
  }

  // --- downloads ---------------------------------------------------------------------------------

  download(form) {
    const content = form === "csv" ? asCsv(this.tiles, this.sides) : asJson(this.tiles);
    const type = form === "csv" ? "text/csv" : "application/json";
    const url = URL.createObjectURL(new Blob([content], { type }));
    element("a", { href: url, download: "tiles." + form }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}

// The models chosen in the form; the default one is sent without its name.
function chosenSides(bench) {
  const selects = ["use", "compare"].map((id) => bench.querySelector("#" + id));
  const chosen = selects.filter((select) => select && (select.id === "use" || select.value));
  if (!chosen.length) return [{ name: "" }];
  return chosen.map((select) => {
    const [model, version] = select.value.split("/");
    return { model, version, name: select.selectedOptions[0].text.replace(" (default)", "") };
  });
}

function marks(tile) {
  const found = tile.answers.map((answer) => answer && answer.prediction).filter(Boolean);
  const words = [];
  if (found.some((prediction) => prediction.uncertain)) words.push("uncertain");
  if (new Set(found.map((prediction) => prediction.class_name)).size > 1) words.push("differ");
  if (tile.answers.some((answer) => answer && answer.error)) words.push("failed");
  return words;
}

function labels(prediction) {
  return prediction.prediction_set || [];
}

// One line for each tile and model; several labels or codes in a cell have "; " between them.
function asCsv(tiles, sides) {
  const answer = ["class_name", "confidence", "uncertain", "prediction_set", "warnings"];
  const lines = [["file", "model", "version", ...answer, "error"]];
  for (const tile of tiles) {
    tile.answers.forEach(({ prediction, error }, i) => {
      const asked = sides[i].name.split(" ");
      const { class_name, confidence, uncertain, ...by } = prediction || {};
      const [model, version] = prediction ? [by.model, by.version] : asked;
      const set = prediction && labels(prediction).join("; ");
      const codes = prediction && by.warnings.map((warning) => warning.code).join("; ");
      const told = [class_name, confidence, uncertain, set, codes];
      lines.push([tile.file.name, model, version, ...told, error && error.message]);
    });
  }
  return lines.map((line) => line.map(asCsvCell).join(",") + "\r\n").join("");
}

function asCsvCell(value) {
  let text = String(value ?? "");
  if (/^[=+\-@\t\r]/.test(text)) text = "'" + text; // a spreadsheet would take it for a formula
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

function asJson(tiles) {
  const content = tiles.map((tile) => ({ file: tile.file.name, answers: tile.answers }));
  return JSON.stringify(content, null, 1);
}
