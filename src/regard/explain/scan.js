// Shows a word's map on a scan: niivue draws, the page's viewer says which word is shown.
(() => {
  const viewer = window.regardViewer;
  if (!viewer || viewer.media.scan) return;
  const { wordsOf, shownIn, isRaw, opacityOf } = viewer;
  const SHADES = 255;
  const MARK = [1, 0.3, 0.3, 1]; // seen on black and on white
  const WIDE = 640; // pixels from which the planes stand in one row

  // Mix the cells along the last axis and bring it to the front; three times is all three axes.
  const along = (values, kernel, cells) => {
    const rest = values.length / cells, points = kernel.length;
    const mixed = new Float32Array(points * rest);
    for (let p = 0; p < points; p++) {
      for (let r = 0; r < rest; r++) {
        let sum = 0;
        for (let c = 0; c < cells; c++) sum += kernel[p][c] * values[r * cells + c];
        mixed[p * rest + r] = sum;
      }
    }
    return mixed;
  };
  const steps = (cells, enlarge) => Array.from({ length: cells * enlarge }, (_, p) =>
    Array.from({ length: cells }, (_, c) => Number(Math.floor(p / enlarge) === c)));
  const enlarged = (map, { grid, enlarge, kernels }, raw) =>
    [2, 1, 0].reduce((values, axis) =>
      along(values, raw ? steps(grid[axis], enlarge) : kernels[axis], grid[axis]), map);

  const place = (mm) => `(${mm.map((x) => x.toFixed(1).replace("-", "−")).join(", ")}) mm`;

  const viewers = new Map();

  // Colour and opacity of every point; niivue's own colour maps know no opacity in between.
  // The image has a border of one empty point all around.
  const paint = ({ img, hdr }, values, top, colours) => {
    const [, wide, high, deep] = hdr.dims;
    let at = 0;
    for (let z = 1; z < deep - 1; z++) {
      for (let y = 1; y < high - 1; y++) {
        for (let x = 1; x < wide - 1; x++) {
          const share = Math.max(0, Math.min(1, values[at++] / top));
          const [r, g, b] = colours[Math.round(share * (colours.length - 1))];
          img.set([r, g, b, Math.round(SHADES * share)], 4 * ((z * high + y) * wide + x));
        }
      }
    }
  };

  const show = (box, word, layer, top) => {
    const state = viewers.get(box);
    if (!state) return; // the still picture is shown
    const { nv, overlay, data } = state;
    const at = shownIn(box), raw = isRaw(box);
    const drawn = [at, layer, raw].join();
    if (state.drawn !== drawn) {
      const values = enlarged(word[layer], data, raw);
      paint(overlay, values, top, data.colours);
      nv.updateGLVolume();
      const peak = data.peaks[at];
      if (peak && state.word !== at) nv.scene.crosshairPos = nv.mm2frac(peak, 0, true); // true: of the world, however oblique
      Object.assign(state, { drawn, layer, values, word: at });
    }
    nv.setOpacity(1, opacityOf(box, data.opacity));
    nv.createOnLocationChange();
  };

  const hide = (box) => {
    const state = viewers.get(box);
    state.drawn = state.word = state.values = undefined;
    state.nv.setOpacity(1, 0);
    state.nv.createOnLocationChange();
  };

  const valueAt = ({ values, overlay, layer }, mm) => {
    if (!values) return "";
    const [wide, high, deep] = overlay.hdr.dims.slice(1).map((points) => points - 2);
    const [x, y, z] = overlay.mm2vox(mm).map((voxel) => voxel - 1);
    if (x < 0 || y < 0 || z < 0 || x >= wide || y >= high || z >= deep) return " · not seen";
    const value = values[(z * high + y) * wide + x];
    return layer === "map" ? ` · ${value.toFixed(1)}× uniform` : ` · ${value.toFixed(2)} nats`;
  };

  const tell = (box, location) => {
    const mm = Array.from(location.mm).slice(0, 3);
    const told = `at ${place(mm)}${valueAt(viewers.get(box), mm)}`;
    box.querySelector(".place").textContent = told;
  };

  const start = async (box) => {
    const canvas = box.querySelector("canvas");
    if (!window.niivue || !document.createElement("canvas").getContext("webgl2")) return;
    const data = JSON.parse(box.dataset.scan);
    box.classList.add("live"); // before niivue measures the canvas
    const { Niivue, NVImage, SLICE_TYPE, SHOW_RENDER, MULTIPLANAR_TYPE } = window.niivue;
    const nv = new Niivue({
      logLevel: "error", backColor: [0, 0, 0, 1], crosshairColor: MARK, fontColor: MARK,
      crosshairWidth: data.longest / 400, crosshairGap: data.longest / 20,
      crosshairWidthUnit: "mm", fontMinPx: 16, loadingText: "",
      isRadiologicalConvention: true, sagittalNoseLeft: true, sliceType: SLICE_TYPE.MULTIPLANAR,
      multiplanarShowRender: SHOW_RENDER.NEVER, scrollRequiresFocus: true, tileMargin: 4,
      showAllOrientationMarkers: true, isCornerOrientationText: false, dragAndDropEnabled: false,
    });
    const arrange = () => nv.setMultiplanarLayout(
      canvas.clientWidth < WIDE ? MULTIPLANAR_TYPE.GRID : MULTIPLANAR_TYPE.ROW);
    await nv.attachToCanvas(canvas);
    const load = (name, options) => NVImage.loadFromBase64({
      base64: box.querySelector(`script.${name}`).textContent, name: `${name}.nii.gz`,
      ...options,
    });
    nv.addVolume(await load("voxels", { colormap: "gray", cal_min: 0, cal_max: SHADES }));
    const overlay = await load("blank", { opacity: 0 });
    nv.addVolume(overlay);
    arrange();
    window.addEventListener("resize", arrange);
    viewers.set(box, { nv, overlay, data });
    box.regardScan = nv; // for whoever wants to do more with it
    nv.onLocationChange = (location) => tell(box, location);
    nv.createOnLocationChange();
    box.addEventListener("regard:released", () => hide(box));
    const pressed = wordsOf(box)[shownIn(box)];
    if (pressed) pressed.click();
    box.classList.add("ready");
  };

  viewer.media.scan = show;
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".regard.scan").forEach((box) =>
      start(box).catch((error) => { box.classList.remove("live"); console.error(error); }));
  });
})();
