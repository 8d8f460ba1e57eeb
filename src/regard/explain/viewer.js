(() => {
  if (window.regardViewer) return;
  window.regardViewer = true;
  // Five stops of the inferno colour map: dark is little, light is much.
  const stops = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
  const colour = (t) => {
    const x = Math.max(0, Math.min(1, t)) * (stops.length - 1);
    const i = Math.min(stops.length - 2, Math.floor(x));
    return stops[i].map((v, k) => Math.round(v + (stops[i + 1][k] - v) * (x - i)));
  };
  const draw = (button) => {
    const box = button.closest(".regard");
    const figure = box.querySelector("figure");
    const canvas = figure.querySelector("canvas");
    const [rows, cols] = JSON.parse(figure.dataset.grid);
    const [left, top, wide, high] = JSON.parse(figure.dataset.place);
    const map = JSON.parse(button.dataset.map);
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const w = wide * canvas.width / cols, h = high * canvas.height / rows;
    map.forEach((value, cell) => {
      const x = left * canvas.width + (cell % cols) * w;
      const y = top * canvas.height + Math.floor(cell / cols) * h;
      pen.fillStyle = `rgba(${colour(value / button.dataset.scale)},0.6)`;
      pen.fillRect(x, y, w, h);
    });
    box.querySelectorAll("button.on").forEach((other) => other.classList.remove("on"));
    button.classList.add("on");
    const note = box.querySelector("output");
    if (note) note.textContent = button.dataset.note;
  };
  const word = (event) => event.target.closest && event.target.closest(".regard button[data-map]");
  for (const kind of ["mouseover", "focusin", "click"]) {
    document.addEventListener(kind, (event) => { const b = word(event); if (b) draw(b); });
  }
  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const button = word(event);
    if (!step || !button) return;
    const all = [...button.closest(".regard").querySelectorAll("button[data-map]")];
    const next = all[all.indexOf(button) + step];
    if (next) { next.focus(); event.preventDefault(); }
  });
})();
