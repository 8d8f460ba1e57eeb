// A picture to paint on. Strokes are kept apart from it, so that they can be taken back.

const SIDE = 1024; // the longer side is at most this; models look at far less

export class Painting {
  // `changed` is called after every stroke, and when strokes are taken back.
  constructor(canvas, ring, changed) {
    Object.assign(this, { canvas, ring, changed, strokes: [], brush: 0.1, cover: "mean" });
    this.pen = canvas.getContext("2d", { willReadFrequently: true });
    this.at = [0.5, 0.5]; // of the keyboard's brush
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#go(event));
    canvas.addEventListener("pointerleave", () => { if (document.activeElement !== canvas) ring.hidden = true; });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => this.#end());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => { ring.hidden = true; });
  }

  get painted() { return this.strokes.length > 0; }

  show(bitmap) {
    const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
    this.canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    this.canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    this.bitmap = bitmap;
    this.strokes = [];
    this.stroke = null;
    this.mean = meanColour(bitmap);
    this.#draw();
  }

  undo() { this.strokes.pop(); this.#draw(); this.changed(); }

  clear() { this.strokes = []; this.#draw(); this.changed(); }

  picture() { return new Promise((done) => this.canvas.toBlob(done, "image/png")); }

  #draw() {
    const { pen, canvas } = this;
    pen.drawImage(this.bitmap, 0, 0, canvas.width, canvas.height);
    for (const stroke of this.strokes) this.#line(stroke, 0);
  }

  // Draws a stroke from one of its points on.
  #line({ colour, width, points }, from) {
    const { pen, canvas } = this;
    const [x, y] = points[from];
    pen.strokeStyle = colour;
    pen.lineWidth = width * Math.max(canvas.width, canvas.height);
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(x * canvas.width, y * canvas.height);
    for (const [u, v] of points.slice(from)) pen.lineTo(u * canvas.width, v * canvas.height);
    pen.stroke();
  }

  #new(point) {
    const colour = this.cover === "mean" ? this.mean : this.cover;
    const stroke = { colour, width: this.brush, points: [point] };
    this.strokes.push(stroke);
    this.#line(stroke, 0);
    return stroke;
  }

  #place(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  }

  #begin(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.stroke = this.#new(this.#place(event));
  }

  #go(event) {
    this.at = this.#place(event);
    this.#showRing();
    if (!this.stroke) return;
    this.stroke.points.push(this.at);
    this.#line(this.stroke, this.stroke.points.length - 2);
  }

  #end() {
    if (!this.stroke) return;
    this.stroke = null;
    this.changed();
  }

  #key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      this.at = this.at.map((value, axis) => Math.min(1, Math.max(0, value + 0.04 * step[axis])));
      this.#showRing();
    } else if (event.key === " " || event.key === "Enter") {
      this.#new([...this.at]);
      this.changed();
    } else return;
    event.preventDefault();
  }

  #showRing() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const size = this.brush * Math.max(width, height);
    this.ring.hidden = false;
    Object.assign(this.ring.style, {
      width: `${size}px`, height: `${size}px`,
      left: `${this.at[0] * width - size / 2}px`, top: `${this.at[1] * height - size / 2}px`,
    });
  }
}

const meanColour = (bitmap) => {
  const small = document.createElement("canvas");
  small.width = small.height = 16;
  const pen = small.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, 16, 16);
  const { data } = pen.getImageData(0, 0, 16, 16);
  const mean = [0, 1, 2].map((channel) => {
    let sum = 0;
    for (let i = channel; i < data.length; i += 4) sum += data[i];
    return Math.round(sum / 256);
  });
  return `rgb(${mean})`;
};
