// Shows a word's map over the picture. One listener per kind serves every fragment of a page.
(() => {
  if (window.regardViewer) return;
  // How other media than pictures show a word, by the box's data-medium: (box, word, layer, top).
  const media = {};

  const wordsOf = (box) => [...box.querySelectorAll("button[data-word]")];
  const isRaw = (box) => { const smooth = box.querySelector(".smooth"); return !smooth || !smooth.checked; };
  // What is shown: "map", where the decoder looked, or "mattered", the falls of log p.
  const layerOf = (box) => { const layer = box.querySelector("select"); return layer ? layer.value : "map"; };
  const opacityOf = (box, usual) => {
    const slider = box.querySelector(".opacity");
    return slider ? Number(slider.value) / 100 : usual;
  };

  // rows · map · colsᵀ; without kernels the map as it is.
  const enlarge = (map, [rows, cols], kernels) => {
    if (!kernels) return { values: map, height: rows, width: cols };
    const [down, across] = kernels;
    const half = down.map((weights) => Array.from({ length: cols }, (_, c) =>
      weights.reduce((sum, w, r) => sum + w * map[r * cols + c], 0)));
    const values = half.flatMap((row) => across.map((weights) =>
      weights.reduce((sum, w, c) => sum + w * row[c], 0)));
    return { values, height: down.length, width: across.length };
  };

  const drawMap = (box, map, top) => {
    const { grid, kernels, colours, opacity } = JSON.parse(box.dataset.map);
    const drawn = enlarge(map, grid, isRaw(box) ? null : kernels);
    const canvas = box.querySelector("canvas");
    canvas.width = drawn.width;
    canvas.height = drawn.height;
    const pen = canvas.getContext("2d");
    const strength = opacityOf(box, opacity);
    const image = pen.createImageData(drawn.width, drawn.height);
    drawn.values.forEach((value, i) => {
      const share = Math.max(0, Math.min(1, value / top));
      const colour = colours[Math.round(share * (colours.length - 1))];
      image.data.set([...colour, Math.round(255 * strength * share)], 4 * i);
    });
    pen.putImageData(image, 0, 0);
  };

  const drawScale = (box, top, layer) => {
    const looked = layer === "map";
    box.querySelector(".top").textContent = looked ? `${top.toFixed(1)}×` : `${top.toFixed(2)} nats`;
    box.querySelector(".middle").textContent = looked ? "white: 1 = uniform" : "fall of log p";
    const mark = box.querySelector(".bar b").style;
    mark.left = `${100 / top}%`;
    mark.visibility = looked ? "visible" : "hidden";
  };

  const frame = (box, cell) => {
    const { grid: [rows, cols], place: [left, top, wide, high] } = JSON.parse(box.dataset.map);
    const style = box.querySelector("i").style;
    const row = Math.floor(cell / cols), col = cell % cols;
    style.left = `${100 * (left + wide * col / cols)}%`;
    style.top = `${100 * (top + high * row / rows)}%`;
    style.width = `${100 * wide / cols}%`;
    style.height = `${100 * high / rows}%`;
  };

  const onPicture = (box, word, layer, top) => {
    box.classList.toggle("chosen", layer === "map" && word.cell !== null);
    drawMap(box, word[layer], top);
    if (word.cell !== null) frame(box, word.cell);
  };

  const tell = (box, word) => {
    const output = box.querySelector("output");
    output.textContent = word.note;
    if (word.others.length) output.append(document.createElement("br"));
    for (const [text, p] of word.others) {
      const other = document.createElement("span");
      const name = document.createElement("bdi"); // keeps Arabic and Hebrew from turning the rest
      name.textContent = text;
      const meter = document.createElement("meter");
      meter.value = p;
      other.append(name, ` ${p.toFixed(2)}`, meter);
      output.append(other);
    }
  };

  const clear = (box) => {
    box.classList.remove("looking", "chosen");
    wordsOf(box).forEach((b) => b.setAttribute("aria-pressed", "false"));
  };
  const release = (box) => {
    clear(box);
    box.dispatchEvent(new CustomEvent("regard:released", { bubbles: true }));
  };

  const show = (button) => {
    const box = button.closest(".regard");
    const word = JSON.parse(button.dataset.word);
    const tops = JSON.parse(button.closest(".words").dataset.tops);
    const layer = layerOf(box);
    const top = tops[layer][isRaw(box) ? 0 : 1];
    clear(box);
    button.setAttribute("aria-pressed", "true");
    box.classList.add("looking");
    box.classList.toggle("raw", isRaw(box));
    (media[box.dataset.medium] || onPicture)(box, word, layer, top);
    drawScale(box, top, layer);
    tell(box, word);
    // A page around the viewer may add to what is told.
    box.dispatchEvent(new CustomEvent("regard:shown", { bubbles: true, detail: shownIn(box) }));
  };

  const wordOf = (event) => event.target.closest && event.target.closest(".regard button[data-word]");
  const shownIn = (box) => wordsOf(box).findIndex((b) => b.getAttribute("aria-pressed") === "true");

  // Play goes from word to word and round again, until it is pressed once more or a word is chosen.
  const playing = new Map();
  const stop = (box) => {
    clearInterval(playing.get(box));
    playing.delete(box);
    const button = box.querySelector(".play");
    if (button) { button.textContent = "▶"; button.setAttribute("aria-label", "play the words"); }
  };
  const play = (box) => {
    const words = wordsOf(box);
    if (!words.length) return; // a model may say nothing
    const next = () => show(words[(shownIn(box) + 1) % words.length]);
    const button = box.querySelector(".play");
    button.textContent = "❚❚";
    button.setAttribute("aria-label", "pause");
    next();
    playing.set(box, setInterval(next, 900));
  };

  for (const kind of ["mouseover", "focusin", "click"]) {
    document.addEventListener(kind, (event) => {
      const word = wordOf(event);
      if (!word) return;
      const box = word.closest(".regard");
      // A page pins a word so that the pointer can travel to what is told of it.
      if (kind === "mouseover" && box.dataset.pinned) return;
      stop(box);
      show(word);
    });
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest(".regard .play");
    if (!button) return;
    const box = button.closest(".regard");
    if (playing.has(box)) stop(box); else play(box);
  });
  for (const kind of ["input", "change"]) {
    document.addEventListener(kind, (event) => {
      const box = event.target.closest(".regard");
      const shown = box && wordsOf(box)[shownIn(box)];
      if (shown) show(shown);
    });
  }
  document.addEventListener("keydown", (event) => {
    const button = wordOf(event);
    if (!button) return;
    if (event.key === "Escape") { stop(button.closest(".regard")); release(button.closest(".regard")); }
    const forward = getComputedStyle(button).direction === "rtl" ? -1 : 1;
    const step = { ArrowRight: forward, ArrowLeft: -forward }[event.key];
    if (!step) return;
    const words = wordsOf(button.closest(".regard"));
    const next = words[words.indexOf(button) + step];
    if (next) { next.focus(); event.preventDefault(); }
  });

  // A page may say which words' maps are shown before anybody has chosen one.
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".regard button.first").forEach(show);
  });

  window.regardViewer = { media, drawMap, frame, show, stop, wordsOf, shownIn, isRaw, opacityOf };
})();
