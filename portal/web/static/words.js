"use strict";

// What the scripts of several pages share.

// A class name and a probability as portal/web/rendering/wording.py writes them.
function inWords(label) {
  const words = label.replace(/[_\s]+|(?<=[a-z0-9])(?=[A-Z])/g, " ").trim().toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function inPercent(probability) {
  if (probability > 0 && probability < 0.0005) return "<0.1 %";
  if (probability >= 0.9995 && probability < 1) return ">99.9 %";
  return (100 * probability).toFixed(1) + " %";
}

function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}
