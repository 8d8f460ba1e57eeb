// Shows a word's map over the picture. One listener per kind serves every fragment of a page.
(() => {
  if (window.regardViewer) return;
  window.regardViewer = true;

  const isRaw = (box) => { const smooth = box.querySelector("input"); return !smooth || !smooth.checked; };

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
    const image = pen.createImageData(drawn.width, drawn.height);
    drawn.values.forEach((value, i) => {
      const share = Math.max(0, Math.min(1, value / top));
      const colour = colours[Math.round(share * (colours.length - 1))];
      image.data.set([...colour, Math.round(255 * opacity * share)], 4 * i);
    });
    pen.putImageData(image, 0, 0);
  };

  const drawScale = (box, top) => {
    box.querySelector(".top").textContent = `${top.toFixed(1)}×`;
    box.querySelector(".bar b").style.left = `${100 / top}%`;
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

  const release = (box) => {
    box.classList.remove("looking", "chosen");
    box.querySelectorAll("[aria-pressed=true]").forEach((b) => b.setAttribute("aria-pressed", "false"));
  };

  const show = (button) => {
    const box = button.closest(".regard");
    const word = JSON.parse(button.dataset.word);
    const tops = JSON.parse(button.closest(".words").dataset.tops);
    const top = tops[isRaw(box) ? 0 : 1];
    release(box);
    button.setAttribute("aria-pressed", "true");
    box.classList.add("looking");
    box.classList.toggle("raw", isRaw(box));
    box.classList.toggle("chosen", word.cell !== null);
    drawMap(box, word.map, top);
    drawScale(box, top);
    if (word.cell !== null) frame(box, word.cell);
    tell(box, word);
  };

  const wordOf = (event) => event.target.closest && event.target.closest(".regard button[data-word]");
  for (const kind of ["mouseover", "focusin", "click"]) {
    document.addEventListener(kind, (event) => { const b = wordOf(event); if (b) show(b); });
  }
  document.addEventListener("change", (event) => {
    const box = event.target.closest(".regard");
    const shown = box && box.querySelector("button[aria-pressed=true]");
    if (shown) show(shown);
  });
  document.addEventListener("keydown", (event) => {
    const button = wordOf(event);
    if (!button) return;
    if (event.key === "Escape") release(button.closest(".regard"));
    const forward = getComputedStyle(button).direction === "rtl" ? -1 : 1;
    const step = { ArrowRight: forward, ArrowLeft: -forward }[event.key];
    if (!step) return;
    const words = [...button.closest(".regard").querySelectorAll("button[data-word]")];
    const next = words[words.indexOf(button) + step];
    if (next) { next.focus(); event.preventDefault(); }
  });
})();
