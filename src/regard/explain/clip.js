// A clip in the viewer: words seek, the map follows the film, the strip and words × seconds answer.
// viewer.js has the words, scales and controls; this adds what a clip has beside a picture.
(() => {
  const viewer = window.regardViewer;
  if (!viewer || viewer.media.clip) return;
  const { wordsOf, shownIn, drawMap, frame: frameCell } = viewer;

  const JUST_AFTER = 0.002; // seconds: times are rounded, and the frame before must not be shown
  const states = new WeakMap();
  const stateOf = (box) => {
    if (!states.has(box)) {
      const clip = JSON.parse(box.dataset.clip), map = JSON.parse(box.dataset.map);
      states.set(box, { clip, map, words: wordsOf(box).map((b) => JSON.parse(b.dataset.word)),
        time: clip.shown[0] || 0, drawn: "", word: -1, layer: "map", top: clip.top });
    }
    return states.get(box);
  };
  const boxOf = (event) => event.target.closest && event.target.closest(".regard.clip");
  const videoOf = (box) => { const video = box.querySelector("video"); return video && !video.hidden ? video : null; };

  // The frame that stands for a moment: the one whose span holds it, else the nearest.
  const frameAt = ({ spans }, time) => {
    let best = 0, least = Infinity;
    spans.forEach(([start, stop], f) => {
      const away = time < start ? start - time : time >= stop ? time - stop : -1;
      if (away < least) { least = away; best = f; }
    });
    return best;
  };

  const cellsOf = (state) => state.map.grid[0] * state.map.grid[1];
  // A word's weights on the frames: multiples of uniform, or falls in nats.
  const weightsOf = (state, word, layer) => {
    if (layer === "mattered") return word.mattered;
    const cells = cellsOf(state);
    return state.clip.spans.map((_, f) =>
      word.map.slice(f * cells, (f + 1) * cells).reduce((sum, w) => sum + w, 0) / cells);
  };
  const topOf = (state, box) => state.layer === "map" ? state.clip.top
    : JSON.parse(box.querySelector(".words").dataset.tops).mattered[0];
  const unit = (state, value) => state.layer === "map" ? `${value.toFixed(2)}×` : `${value.toFixed(2)} nats`;

  const clamp = (share) => Math.max(0, Math.min(1, share));
  // As on the grey below the colour bars: the colour covers in proportion to the weight.
  const shade = ({ map }, share) => {
    const colour = map.colours[Math.round(clamp(share) * (map.colours.length - 1))];
    const cover = map.opacity * clamp(share);
    return `rgb(${colour.map((c) => Math.round(140 + cover * (c - 140))).join(",")})`;
  };

  const drawHeat = (box) => {
    const state = stateOf(box), { spans, duration } = state.clip;
    const canvas = box.querySelector(".heat canvas"), top = topOf(state, box);
    canvas.width = Math.max(300, Math.min(4 * spans.length, 4096));
    canvas.height = 12 * Math.max(1, state.words.length);
    const pen = canvas.getContext("2d"), across = canvas.width / duration;
    state.words.forEach((word, row) => weightsOf(state, word, state.layer).forEach((value, f) => {
      pen.fillStyle = shade(state, value / top);
      pen.fillRect(spans[f][0] * across, 12 * row + 0.5, (spans[f][1] - spans[f][0]) * across + 0.5, 11);
    }));
    const legend = box.querySelector(".legend");
    const looked = state.layer === "map";
    legend.querySelector(".top").textContent = looked ? `${top.toFixed(1)}×` : `${top.toFixed(2)} nats`;
    legend.querySelector(".middle").textContent = looked ? "of a frame; white: 1 = uniform" : "fall of log p";
    legend.querySelector(".bar b").style.visibility = looked ? "visible" : "hidden";
  };

  const drawStrip = (box) => {
    const state = stateOf(box), word = state.words[state.word], top = topOf(state, box);
    const weights = word && weightsOf(state, word, state.layer);
    box.querySelectorAll(".shot").forEach((shot) => {
      const value = weights ? weights[shot.dataset.frame] : 0;
      shot.querySelector("b").style.height = `${100 * clamp(value / top)}%`;
      shot.classList.toggle("peak", Boolean(word) && Number(shot.dataset.frame) === word.frame);
    });
    box.querySelector(".strip").style.setProperty("--uniform", state.layer === "map" ? 1 / top : -1);
    box.querySelectorAll(".heat .names span").forEach((name, row) =>
      name.classList.toggle("on", row === state.word));
  };

  // Whatever depends on the moment.
  const drawMoment = (box) => {
    const state = stateOf(box), { clip } = state, f = frameAt(clip, state.time);
    const word = state.words[state.word];
    box.querySelector(".heat u").style.left = `${100 * clamp(state.time / clip.duration)}%`;
    box.querySelector(".seek").value = state.time;
    box.querySelector(".clock").textContent = `${state.time.toFixed(1)} of ${clip.duration.toFixed(1)} s`;
    const key = [f, state.word, state.layer, state.top, state.look].join();
    if (key === state.drawn) return;
    state.drawn = key;
    box.dataset.frame = f;
    const shots = [...box.querySelectorAll(".shot")];
    const near = shots.reduce((best, shot) =>
      Math.abs(shot.dataset.frame - f) < Math.abs(best.dataset.frame - f) ? shot : best, shots[0]);
    shots.forEach((shot) => {
      if (shot === near) shot.setAttribute("aria-current", "true"); else shot.removeAttribute("aria-current");
    });
    if (!videoOf(box)) box.querySelector(".still").src = near.querySelector("img").src;
    const weight = word ? weightsOf(state, word, state.layer)[f] : 0, top = topOf(state, box);
    box.querySelector(".gauge b").style.width = `${100 * clamp(weight / top)}%`;
    box.querySelector(".gauge s").style.left = state.layer === "map" ? `${100 / top}%` : "-9px";
    box.querySelector(".said").textContent = `frame ${f + 1} of ${clip.spans.length}`
      + (word ? `, ${wordsOf(box)[state.word].textContent}: ${unit(state, weight)}` : "");
    if (!word) return;
    const cells = cellsOf(state), whole = state.layer === "mattered";
    drawMap(box, whole ? Array(cells).fill(weight) : word.map.slice(f * cells, (f + 1) * cells), state.top);
    const own = word.cell === null ? -1 : word.cell - f * cells;
    const chosen = state.layer === "map" && own >= 0 && own < cells;
    box.classList.toggle("chosen", chosen);
    if (chosen) frameCell(box, own);
  };

  const seek = (box, time, { gently = false } = {}) => {
    const state = stateOf(box), video = videoOf(box);
    state.time = Math.max(0, Math.min(time, state.clip.duration));
    if (video) {
      if (!gently) video.pause();
      video.currentTime = Math.min(state.time + JUST_AFTER, state.clip.duration);
    }
    drawMoment(box);
  };

  const seekToWord = (box, index) => {
    const state = stateOf(box);
    tellThere(box, null);
    seek(box, state.clip.shown[state.words[index].frame]);
  };

  // Called by the viewer whenever a word is shown, or shown in another way.
  viewer.media.clip = (box, word, layer, top) => {
    const state = stateOf(box), index = shownIn(box), fresh = index !== state.word;
    const other = layer !== state.layer;
    // Smoothing and opacity change the map and nothing that its key holds.
    Object.assign(state, { word: index, layer, top, look: (state.look || 0) + 1 });
    if (other) drawHeat(box);
    drawStrip(box);
    if (fresh) seekToWord(box, index); else drawMoment(box);
  };
  document.addEventListener("regard:released", (event) => {
    const box = boxOf(event);
    if (!box) return;
    stateOf(box).word = -1;
    drawStrip(box);
    drawMoment(box);
  });
  // A word that is shown already seeks once more when it is pointed at again.
  for (const kind of ["mouseover", "click"]) {
    document.addEventListener(kind, (event) => {
      const box = boxOf(event), button = box && event.target.closest("button[data-word]");
      if (button) seekToWord(box, wordsOf(box).indexOf(button));
    });
  }

  // Which words looked at a frame, the most first.
  const tellThere = (box, f) => {
    const state = stateOf(box), place = box.querySelector(".there"), buttons = wordsOf(box);
    place.textContent = "";
    buttons.forEach((button) => button.style.removeProperty("--there"));
    if (f === null) return;
    const [start, stop] = state.clip.spans[f], top = topOf(state, box);
    const found = state.words.map((word, t) => [t, weightsOf(state, word, state.layer)[f]]);
    found.forEach(([t, value]) => buttons[t].style.setProperty("--there", clamp(value / top)));
    const head = document.createElement("p");
    head.textContent = `Frame ${f + 1} stands for ${start.toFixed(1)} to ${stop.toFixed(1)} s. `
      + (state.layer === "map" ? "Looked at by:" : "Covering it took from log p of:");
    place.append(head);
    found.sort((a, b) => b[1] - a[1]).forEach(([t, value]) => {
      const one = document.createElement("span"), name = document.createElement("bdi");
      name.textContent = buttons[t].textContent;
      one.append(name, ` ${unit(state, value)}`);
      place.append(one);
    });
  };

  const goTo = (box, f) => { viewer.stop(box); seek(box, stateOf(box).clip.shown[f]); tellThere(box, f); };

  document.addEventListener("click", (event) => {
    const box = boxOf(event);
    if (!box) return;
    const shot = event.target.closest(".shot");
    if (shot) { rove(shot); goTo(box, Number(shot.dataset.frame)); return; }
    const field = event.target.closest(".heat .field");
    if (field) {
      const state = stateOf(box), place = field.getBoundingClientRect();
      const time = state.clip.duration * clamp((event.clientX - place.left) / place.width);
      const row = Math.floor(state.words.length * clamp((event.clientY - place.top) / place.height));
      const button = wordsOf(box)[Math.min(row, state.words.length - 1)];
      if (button) { viewer.stop(box); viewer.show(button); }
      goTo(box, frameAt(state.clip, time));
      return;
    }
    if (event.target.closest(".run")) {
      viewer.stop(box);
      const video = videoOf(box);
      if (!video) return;
      if (video.paused) {
        if (video.ended || video.currentTime >= video.duration - 0.05) video.currentTime = 0;
        video.play().catch(() => {});
      } else video.pause();
    }
  });

  // One of the frames is in the tab order; the arrow keys go through the others.
  const rove = (shot) => {
    shot.closest(".strip").querySelectorAll(".shot").forEach((s) => { s.tabIndex = s === shot ? 0 : -1; });
    shot.focus();
  };
  document.addEventListener("keydown", (event) => {
    const shot = event.target.closest && event.target.closest(".regard.clip .shot");
    if (!shot) return;
    const shots = [...shot.closest(".strip").children];
    const next = { ArrowRight: shots[shots.indexOf(shot) + 1], ArrowLeft: shots[shots.indexOf(shot) - 1],
      Home: shots[0], End: shots[shots.length - 1] }[event.key];
    if (event.key === "Escape") tellThere(boxOf(event), null);
    if (!next) return;
    event.preventDefault();
    rove(next);
    goTo(boxOf(event), Number(next.dataset.frame));
  });

  // The viewer shows the word anew at every other input; sliding through the clip is none of those.
  for (const kind of ["input", "change"]) {
    document.addEventListener(kind, (event) => {
      const box = boxOf(event);
      if (!box || !event.target.matches(".seek")) return;
      event.stopPropagation();
      viewer.stop(box);
      tellThere(box, null);
      seek(box, Number(event.target.value));
    }, true);
  }

  // Media events do not bubble; they are caught on their way down.
  const follow = (event) => {
    const video = event.target;
    const box = video.tagName === "VIDEO" && video.closest(".regard.clip");
    if (!box) return;
    const button = box.querySelector(".run");
    button.textContent = video.paused ? "▶ clip" : "❚❚ clip";
    const step = () => {
      stateOf(box).time = Math.min(video.currentTime, stateOf(box).clip.duration);
      drawMoment(box);
      if (!video.paused && !video.ended) requestAnimationFrame(step);
    };
    if (event.type === "seeked" && video.paused) return; // the moment asked for is drawn already
    step();
  };
  for (const kind of ["play", "pause", "ended", "seeked"]) document.addEventListener(kind, follow, true);

  const standIn = (box) => {
    const fault = box.querySelector(".fault");
    box.querySelector("video").hidden = true;
    box.querySelector(".run").hidden = true;
    box.querySelector(".still").hidden = false;
    fault.hidden = false;
    fault.textContent = "This browser cannot play the clip. The frames that were read are shown instead.";
    stateOf(box).drawn = "";
    drawMoment(box);
  };
  document.addEventListener("error", (event) => {
    const box = event.target.tagName === "VIDEO" && event.target.closest(".regard.clip");
    if (box) standIn(box);
  }, true);

  const begin = () => {
    const films = [...document.querySelectorAll(".regard.clip video")];
    const first = films.find((video) => video.hasAttribute("src"));
    document.querySelectorAll(".regard.clip").forEach((box) => {
      const video = box.querySelector("video");
      // The same clip stands in a page once, however many models captioned it.
      if (video && !video.hasAttribute("src")) { if (first) video.src = first.src; else standIn(box); }
      if (video && video.error) standIn(box);
      drawHeat(box);
      drawMoment(box);
    });
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
