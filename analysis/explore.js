// The report's explorer. Nothing else on the page needs it.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const explorer = document.getElementById("explore");
const byId = (id) => document.getElementById(id);
const state = { image: null, kind: "relevancy", block: data.blocks, head: 0 };
const ORDER = ["corrected", "broken", "wrong in both", "right in both"];

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const percent = (x) => (100 * x).toFixed(1) + " %";

// The map of one model over the patches, in its own unit; head 0 is the mean over all heads.
function mapOf(model) {
  const image = data.images[state.image], patches = data.side ** 2;
  if (state.kind === "relevancy") {
    return Float32Array.from(bytes(image[model].relevancy), (b) => (b / 255) * image.relevancy_scale);
  }
  const all = bytes(image[model].attention), map = new Float32Array(patches);
  const heads = state.head ? [state.head - 1] : [...Array(data.heads).keys()];
  for (const head of heads) {
    const at = (state.block - 1) * data.heads + head;
    for (let i = 0; i < patches; i++) {
      map[i] += ((all[at * patches + i] / 255) * image.attention_scale[at]) / heads.length;
    }
  }
  return map;
}

// Colour of a value from -1 to 1: red where positive, blue where negative, transparent at 0.
const colour = (x, diverging) =>
  x < 0 ? [20, 80, 200, 230 * -x] : diverging ? [200, 30, 30, 230 * x] : [255, 70 + 130 * x, 0, 215 * x];

function paint(id, map, scale, diverging) {
  const canvas = byId(id), context = canvas.getContext("2d");
  const grid = document.createElement("canvas");
  grid.width = grid.height = data.side;
  const pixels = new ImageData(data.side, data.side);
  map.forEach((value, i) => pixels.data.set(colour(scale ? value / scale : 0, diverging), 4 * i));
  grid.getContext("2d").putImageData(pixels, 0, 0);
  context.filter = "grayscale(0.8)";
  context.drawImage(byId("picture"), 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  context.drawImage(grid, 0, 0, canvas.width, canvas.height);
  canvas.dataset.values = Array.from(map, (x) => x.toPrecision(4)).join(" ");
}

function paintAll() {
  const plain = mapOf("plain"), tuned = mapOf("tuned");
  const difference = tuned.map((x, i) => x - plain[i]);
  const scale = Math.max(...plain, ...tuned), largest = Math.max(...difference.map(Math.abs));
  paint("map-plain", plain, scale, false);
  paint("map-tuned", tuned, scale, false);
  paint("map-difference", difference, largest, true);
  byId("scale").textContent = state.kind === "relevancy"
    ? `Full colour: ${scale.toFixed(2)} times the average patch; in the difference ±${largest.toFixed(2)}.`
    : `Full colour: attention ${scale.toPrecision(2)}; in the difference ±${largest.toPrecision(2)}.`;
}

function showTokens(model) {
  const tokens = data.images[state.image][model].tokens, line = byId("tokens-" + model);
  const largest = Math.max(...tokens.map((token) => token[1]));
  line.replaceChildren(...tokens.map(([word, share]) => {
    const token = document.createElement("button");
    token.type = "button";
    token.className = "token";
    token.textContent = word;
    token.style.background = `rgba(255, 150, 0, ${largest ? 0.75 * share / largest : 0})`;
    token.setAttribute("aria-label", `${word}: ${percent(share)} of the text's relevancy`);
    const tell = () => { byId("token").textContent = `“${word}”, ${model}: ${percent(share)} of the text's relevancy`; };
    for (const event of ["mouseenter", "focus", "click"]) token.addEventListener(event, tell);
    return token;
  }));
}

function show() {
  const image = data.images[state.image];
  for (const button of byId("strip").children) {
    const chosen = Number(button.dataset.image) === state.image;
    button.setAttribute("aria-pressed", chosen);
    button.tabIndex = chosen ? 0 : -1;
  }
  byId("block").disabled = byId("head").disabled = state.kind === "relevancy";
  byId("block-value").textContent = state.kind === "relevancy" ? "all" : state.block;
  byId("about").textContent = `Test image ${image.index}: ${image.true}, ${image.change}`;
  for (const model of ["plain", "tuned"]) {
    byId("says-" + model).textContent = `${image[model].class}, ${percent(image[model].probability)}`;
    showTokens(model);
  }
  byId("token").textContent = "Point at a word, or tap it, to see its share.";
  const picture = byId("picture");
  picture.onload = paintAll;
  if (picture.getAttribute("src") === image.picture) paintAll();
  else picture.src = image.picture;
}

// Thumbnails in the chosen order, and of the chosen kind of change.
function fillStrip() {
  const order = byId("sort").value, only = byId("filter").value;
  const gain = (image) => image.tuned.probability - image.plain.probability;
  const shown = [...data.images.keys()].filter((i) => !only || data.images[i].change === only);
  if (order === "change") {
    shown.sort((a, b) => ORDER.indexOf(data.images[a].change) - ORDER.indexOf(data.images[b].change)
      || gain(data.images[b]) - gain(data.images[a]));
  }
  byId("strip").replaceChildren(...shown.map((i) => {
    const image = data.images[i], button = document.createElement("button");
    button.type = "button";
    button.dataset.image = i;
    button.dataset.change = image.change;
    button.title = `${image.index}: ${image.true}, ${image.change}`;
    const picture = document.createElement("img");
    picture.src = image.picture;
    picture.alt = button.title;
    button.append(picture);
    button.addEventListener("click", () => { state.image = i; show(); });
    return button;
  }));
  byId("none").hidden = shown.length > 0;
  if (shown.length && !shown.includes(state.image)) state.image = shown[0];
  show();
}

byId("strip").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...event.currentTarget.children];
  const at = buttons.findIndex((button) => Number(button.dataset.image) === state.image);
  const next = buttons[(at + step + buttons.length) % buttons.length];
  next.click();
  next.focus();
});

for (const kind of document.getElementsByName("kind")) {
  kind.addEventListener("change", () => { state.kind = kind.value; show(); });
}
for (const name of ["block", "head"]) {
  byId(name).addEventListener("input", (event) => { state[name] = Number(event.target.value); show(); });
}
for (const name of ["sort", "filter"]) byId(name).addEventListener("change", fillStrip);
explorer.hidden = false;
fillStrip();
