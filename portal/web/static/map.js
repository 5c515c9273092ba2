"use strict";

// The map of a scene: its picture, over it the classes in cells, and what the model says of the
// cell under the pointer or the arrow keys. One unit of Leaflet's plane is a pixel of the scene.

const FAR = 10; // cells that an arrow key goes with Shift
const HATCH = 8; // px between two lines over a cell that the model is not sure of; divides 256
const NONE = 255; // in place of a class
const WORTH = { unsure: "Unsure.", bright: "Too bright for a class.", edge: "At the edge." };

const frame = document.getElementById("map");
const told = document.getElementById("cell-words");
show();

async function show() {
  const { cells, other, scene } = frame.dataset;
  try {
    const found = await Promise.all([load(cells), other ? load(other) : null]);
    new LandMap(...found, scene);
  } catch (error) {
    console.error(error);
    document.getElementById("cell").hidden = false;
    told.textContent = "The map cannot be shown now. Load the page again.";
  }
}

async function load(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(url + ": " + answer.status);
  const cells = await answer.json();
  for (const name of ["classes", "confidence", "state", "probabilities"]) {
    cells[name] = Uint8Array.from(atob(cells[name]), (letter) => letter.charCodeAt(0));
  }
  return cells;
}

class LandMap {
  // cells: as /api/scenes/<id>/cells.json has them; other: those of another map of the same scene,
  // or null; picture: address of the scene itself
  constructor(cells, other, picture) {
    this.cells = cells;
    this.other = other;
    this.hidden = new Set(); // classes that the legend hides
    this.onlyDifferences = false;
    this.cursor = null; // {row, column}

    frame.replaceChildren();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const distance = (a, b) => cells.gsd * L.CRS.Simple.distance(a, b);
    this.map = L.map(frame, {
      crs: L.extend({}, L.CRS.Simple, { distance }), // metres, for the scale
      keyboard: false, // the arrow keys go from cell to cell
      attributionControl: false,
      scrollWheelZoom: false, // until the map has the focus: the page must scroll
      zoomSnap: 0.25,
      minZoom: -6,
      maxZoom: 4,
      zoomAnimation: !still,
      inertia: !still,
      fadeAnimation: false,
    });
    this.bounds = L.latLngBounds([-cells.height, 0], [0, cells.width]);
    this.map.setMaxBounds(this.bounds.pad(0.5));
    L.imageOverlay(picture, this.bounds, { pane: "tilePane", zIndex: 1 }).addTo(this.map);
    this.layer = classLayer(this).addTo(this.map);
    if (cells.located) L.control.scale({ imperial: false }).addTo(this.map);
    this.map.fitBounds(this.bounds);
    this.mark = L.rectangle(this.bounds, { className: "cell-mark", interactive: false, fill: false });

    this.map.on("mousemove click", (event) => this.point(event.latlng));
    frame.addEventListener("keydown", (event) => this.press(event));
    frame.addEventListener("focusin", () => this.map.scrollWheelZoom.enable());
    frame.addEventListener("focusout", () => this.map.scrollWheelZoom.disable());
    frame.tabIndex = 0;
    frame.setAttribute("role", "application");
    frame.setAttribute("aria-label", "Land-use map");
    frame.setAttribute("aria-describedby", "map-keys");
    document.getElementById("map-tools").hidden = false;
    document.getElementById("cell").hidden = false;
    this.listen();
    this.count();
  }

  listen() {
    for (const box of document.querySelectorAll("#legend [data-class]")) {
      const index = this.cells.labels.indexOf(box.dataset.class);
      box.hidden = false;
      box.checked = true; // a browser may remember another state
      box.addEventListener("change", () => {
        if (box.checked) this.hidden.delete(index);
        else this.hidden.add(index);
        this.layer.redraw();
      });
    }
    const strength = document.getElementById("strength");
    const fade = () => this.layer.setOpacity(strength.value / 100);
    strength.addEventListener("input", fade);
    fade();
    const differences = document.getElementById("only-differences");
    if (differences) {
      differences.checked = false;
      differences.addEventListener("change", () => {
        this.onlyDifferences = differences.checked;
        this.layer.redraw();
      });
    }
  }

  // How many cells have which state.
  count() {
    const { state, states } = this.cells;
    const counts = states.map(() => 0);
    for (const one of state) counts[one] += 1;
    for (const item of document.querySelectorAll("#states [data-state]")) {
      const found = counts[states.indexOf(item.dataset.state)];
      const share = inPercent(found / state.length);
      item.hidden = !found;
      item.lastElementChild.textContent = `${found.toLocaleString("en")} cells, ${share}`;
    }
    document.getElementById("states").hidden = false;
  }

  // --- what is shown of a cell --------------------------------------------------------------------

  // The colour of a cell, null where none is shown.
  colour(index) {
    const { classes, labels, colors } = this.cells;
    const found = classes[index];
    if (found === NONE || this.hidden.has(found)) return null;
    if (this.onlyDifferences && found === this.other.classes[index]) return null;
    return colors[labels[found]];
  }

  worth(cells, index) {
    return cells.states[cells.state[index]];
  }

  // Where a cell lies: [west, north, east, south] in pixels of the scene.
  edges(row, column) {
    const { stride, width, height } = this.cells;
    const [west, north] = [column * stride, row * stride];
    return [west, north, Math.min(west + stride, width), Math.min(north + stride, height)];
  }

  // --- going from cell to cell ---------------------------------------------------------------------

  point({ lat, lng }) {
    const { stride, width, height } = this.cells;
    if (lng < 0 || lng >= width || lat > 0 || lat <= -height) return;
    this.go(Math.floor(-lat / stride), Math.floor(lng / stride));
  }

  press(event) {
    if (event.target !== frame || event.ctrlKey || event.altKey || event.metaKey) return;
    const steps = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
    };
    const { rows, columns } = this.cells;
    if (event.key in steps) {
      const [down, right] = steps[event.key].map((step) => step * (event.shiftKey ? FAR : 1));
      const from = this.cursor || { row: (rows >> 1) - down, column: (columns >> 1) - right };
      const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
      this.go(within(from.row + down, rows), within(from.column + right, columns));
      const [west, north, east, south] = this.edges(this.cursor.row, this.cursor.column);
      const middle = [-(north + south) / 2, (west + east) / 2];
      this.map.panInside(middle, { padding: [40, 40], animate: false });
    } else if (event.key === "+" || event.key === "=") this.map.zoomIn();
    else if (event.key === "-") this.map.zoomOut();
    else if (event.key === "0") this.map.fitBounds(this.bounds);
    else return;
    event.preventDefault();
  }

  go(row, column) {
    if (this.cursor && this.cursor.row === row && this.cursor.column === column) return;
    this.cursor = { row, column };
    const [west, north, east, south] = this.edges(row, column);
    this.mark.setBounds([
      [-south, west],
      [-north, east],
    ]);
    this.mark.addTo(this.map);
    this.tell(row, column);
  }

  // --- what the model says of a cell ---------------------------------------------------------------

  tell(row, column) {
    const { rows, columns, labels, colors, probabilities } = this.cells;
    const index = row * columns + column;
    const place = `Row ${row + 1} of ${rows}, column ${column + 1} of ${columns}: `;
    let answer = this.sentence(this.cells, index);
    if (this.other) {
      const { name, otherName } = frame.dataset;
      answer = `${name} says ${answer} ${otherName} says ${this.sentence(this.other, index)}`;
    }
    told.textContent = place + answer;
    const bars = document.getElementById("cell-bars");
    bars.hidden = this.cells.classes[index] === NONE;
    const first = index * labels.length;
    const found = labels.map((label, i) => [label, probabilities[first + i]]);
    found.sort((a, b) => b[1] - a[1]);
    bars.tBodies[0].replaceChildren(...found.map((one) => bar(...one, colors[one[0]])));
  }

  sentence(cells, index) {
    const worth = this.worth(cells, index);
    const found = cells.classes[index];
    if (found === NONE) return WORTH[worth] || "No data.";
    const share = inWholePercent(cells.confidence[index]);
    return `${inWords(cells.labels[found])}, ${share}. ${WORTH[worth] || ""}`.trim();
  }
}

// The classes as a layer of tiles, so that cells and hatching are sharp at every zoom.
function classLayer(land) {
  const { cells } = land;
  const Layer = L.GridLayer.extend({
    createTile(at) {
      const size = this.getTileSize();
      const tile = L.DomUtil.create("canvas", "classes");
      tile.width = size.x;
      tile.height = size.y;
      const pen = tile.getContext("2d");
      const lines = pen.createPattern(hatch(), "repeat");
      const scale = 2 ** at.z; // px on the screen for a pixel of the scene
      const [left, top] = [at.x * size.x, at.y * size.y];
      const side = cells.stride * scale;
      const last = (end, count) => Math.min(Math.ceil(end / side), count);
      const lastRow = last(top + size.y, cells.rows);
      const lastColumn = last(left + size.x, cells.columns);
      for (let row = Math.max(Math.floor(top / side), 0); row < lastRow; row += 1) {
        for (let column = Math.max(Math.floor(left / side), 0); column < lastColumn; column += 1) {
          const index = row * cells.columns + column;
          const colour = land.colour(index);
          if (!colour) continue;
          const [west, north, east, south] = land
            .edges(row, column)
            .map((edge, i) => Math.round(edge * scale) - (i % 2 ? top : left));
          pen.fillStyle = colour;
          pen.fillRect(west, north, east - west, south - north);
          if (land.worth(cells, index) !== "unsure") continue;
          pen.fillStyle = lines;
          pen.fillRect(west, north, east - west, south - north);
        }
      }
      return tile;
    },
  });
  return new Layer({ bounds: land.bounds, minZoom: -6, maxZoom: 4, zIndex: 2 });
}

// A pattern of slanted lines, dark beside light, so that they are seen on every colour.
function hatch() {
  const tile = element("canvas", { width: HATCH, height: HATCH });
  const pen = tile.getContext("2d");
  pen.lineWidth = 1.5;
  for (const [colour, shift] of [["#ffffff", 0], ["#000000", 1.5]]) {
    pen.strokeStyle = colour;
    pen.beginPath();
    for (const start of [-HATCH, 0, HATCH]) {
      pen.moveTo(start + shift - 1, HATCH + 1);
      pen.lineTo(start + shift + HATCH + 1, -1);
    }
    pen.stroke();
  }
  return tile;
}

// A probability of 0..255 as far as it is known then, never as a certainty.
function inWholePercent(probability) {
  if (probability === 0) return "<1 %";
  return probability === 255 ? ">99 %" : Math.round(probability / 2.55) + " %";
}

// A row of the table of probabilities.
function bar(label, probability, colour) {
  const row = element("tr");
  const name = element("th", { scope: "row", textContent: inWords(label) });
  const track = element("td", { className: "track", ariaHidden: "true" });
  const length = element("span", { className: "length" });
  length.style.width = probability / 2.55 + "%";
  length.style.background = colour;
  track.append(length);
  const number = element("td", { className: "number", textContent: inWholePercent(probability) });
  row.append(name, track, number);
  return row;
}
