// Runs viewer.js on a page of one caption, with just as much of a browser as it needs:
//   node run_viewer.js viewer.js < {"map": ..., "tops": [...], "words": [...], "smooth": bool}
// presses the first word, then the right arrow, and writes what the page then shows.
const fs = require("fs");

const page = JSON.parse(fs.readFileSync(0, "utf-8"));
const listeners = {};
const parts = {};

const element = (extra = {}) => Object.assign({
  style: {}, dataset: {}, attributes: {}, children: [], text: "",
  get textContent() { return this.text; },
  set textContent(text) { this.text = text; this.children = []; },
  setAttribute(name, value) { this.attributes[name] = value; },
  getAttribute(name) { return this.attributes[name]; },
  append(...children) { this.children.push(...children); },
}, extra);
const classes = new Set();
const canvas = element({
  getContext: () => ({
    createImageData: (width, height) => ({ data: new Uint8ClampedArray(4 * width * height) }),
    putImageData: (image) => { canvas.drawn = image; },
  }),
});
const words = element({ dataset: { tops: JSON.stringify(page.tops) } });
const box = element({
  dataset: { map: JSON.stringify(page.map) },
  classList: {
    add: (...names) => names.forEach((name) => classes.add(name)),
    remove: (...names) => names.forEach((name) => classes.delete(name)),
    toggle: (name, on) => { if (on) classes.add(name); else classes.delete(name); },
  },
  querySelector: (selector) => {
    if (selector === ".smooth") return { checked: page.smooth };
    if (selector === "select") return page.layer ? { value: page.layer } : null;
    if (selector === ".opacity") return page.opacity === undefined ? null : { value: page.opacity };
    if (selector === "canvas") return canvas;
    return (parts[selector] = parts[selector] || element());
  },
  querySelectorAll: () => buttons,
  dispatchEvent() {},
});
const buttons = page.words.map((word) => {
  const button = element({ dataset: { word: JSON.stringify(word) } });
  button.closest = (selector) =>
    ({ ".regard": box, ".words": words, ".regard .play": null })[selector] ?? (selector.endsWith(".play") ? null : button);
  button.focus = () => listeners.focusin({ target: button });
  return button;
});

global.window = {};
global.getComputedStyle = () => ({ direction: "ltr" });
global.document = {
  addEventListener: (kind, listener) => {
    const before = listeners[kind];
    listeners[kind] = before ? (event) => { before(event); listener(event); } : listener;
  },
  createElement: () => element(),
};
eval(fs.readFileSync(process.argv[2], "utf-8"));

listeners.click({ target: buttons[0] });
listeners.keydown({ target: buttons[0], key: "ArrowRight", preventDefault() {} });
process.stdout.write(JSON.stringify({
  size: [canvas.height, canvas.width],
  pixels: [...canvas.drawn.data],
  pressed: buttons.map((b) => b.attributes["aria-pressed"]),
  classes: [...classes].sort(),
  frame: parts.i ? parts.i.style : null,
  top: parts[".top"].textContent,
  middle: parts[".middle"].textContent,
  note: parts.output.textContent,
  others: parts.output.children.length,
}));
