// The page: a picture comes in, its caption comes back, and words and pixels can be changed.
import { Painting } from "./paint.js";

const $ = (id) => document.getElementById(id);
const PAUSE = 350; // milliseconds without a key before what was typed is sent

let models = [];
let picture = null; // { blob, name, drawn: whether this browser can draw it }
let shown = { captions: [], views: [] };
let which = 0; // of the captions found
let underWay = null; // the request that is awaited; a newer one ends it

const painting = new Painting($("canvas"), $("ring"), () => {
  $("undo").disabled = $("clear").disabled = !painting.painted;
  write({ compare: true });
});

// --- requests ------------------------------------------------------------------------------

const model = () => models.find((one) => one.name === $("model").value);

const within = (input) => Math.round(Math.min(input.max, Math.max(input.min, Number(input.value) || 1)));

const form = async (extra = {}) => {
  const fields = new FormData();
  const painted = picture.drawn && painting.painted;
  fields.append("files", painted ? await painting.picture() : picture.blob, picture.name);
  fields.append("model", model().name);
  fields.append("beam", Math.max(within($("beam")), within($("n-best"))));
  fields.append("n_best", within($("n-best")));
  if ($("prefix").value.trim()) fields.append("prefix", $("prefix").value);
  if (model().attention === "hard") fields.append("context", $("context").value);
  for (const [name, value] of Object.entries(extra)) fields.append(name, value);
  return fields;
};

// A service with keys is asked with one, which this tab alone remembers.
const ask = async (path, options) => {
  const key = sessionStorage.getItem("key");
  const answer = await fetch(path, { ...options, headers: key ? { "X-API-Key": key } : {} });
  if (answer.status !== 401) return answer;
  const given = prompt("This service asks for an API key.");
  if (!given) return answer;
  sessionStorage.setItem("key", given.trim());
  return ask(path, options);
};

const send = async (path, fields, signal) => {
  const answer = await ask(path, { method: "POST", body: fields, signal });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({ error: `the service answered ${answer.status}.` }));
  throw new Error(told.error);
};

const say = (text, wrong = false) => {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
};

// Runs a request; a newer one ends it. Whatever goes wrong is said in the status line.
const during = async (text, work) => {
  underWay?.abort();
  const mine = underWay = new AbortController();
  $("result").setAttribute("aria-busy", "true");
  say(text);
  try {
    const done = await work(mine.signal);
    if (mine === underWay) say(done ?? "");
  } catch (error) {
    if (mine === underWay) say(error instanceof TypeError ? "the service cannot be reached." : error.message, true);
  } finally {
    if (mine === underWay) { underWay = null; $("result").removeAttribute("aria-busy"); }
  }
};

// Asks for captions. With `compare` the caption before stays readable beside the new one.
const write = ({ compare = false, occlusion = false } = {}) => {
  if (!picture) return undefined;
  const before = compare && shown.captions.length ? shown.captions[which].caption : "";
  return during(occlusion ? "covering every cell in turn…" : "writing…", async (signal) => {
    const answer = await send("page/caption", await form({ occlusion }), signal);
    const told = await answer.json();
    signal.throwIfAborted();
    if (told.error) throw new Error(told.error);
    shown = told;
    which = 0;
    render(before);
    const layers = $("view").querySelector("select"); // none where nothing was said
    if (layers) layers.value = "mattered";
    return layers ? "Measured: point at a word to see what mattered for it." : "";
  });
};

const download = (format) => during("making the file…", async (signal) => {
  const answer = await send("v1/explain", await form({ format }), signal);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = `${picture.name.replace(/\.[^.]*$/, "") || "picture"}-regard.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return "Downloaded.";
});

// --- what is seen --------------------------------------------------------------------------

const render = (before) => {
  // The fragment is the service's own; what strangers wrote is text in it.
  $("view").innerHTML = shown.views[which];
  const text = shown.captions[which].caption;
  $("before").hidden = !before || before === text;
  $("before").textContent = `Before: ${before}`;
  $("how").hidden = $("actions").hidden = false;
  $("forget").disabled = !$("prefix").value;
  $("others").hidden = shown.captions.length < 2;
  $("others").querySelector("ol").replaceChildren(...shown.captions.map((one, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(i === which));
    const score = document.createElement("span");
    score.textContent = one.score.toFixed(2);
    button.append(one.caption || "(nothing)", score);
    button.addEventListener("click", () => { which = i; render(""); });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
};

// Words that the model considered become buttons; the end and the unknown cannot be said.
$("view").addEventListener("regard:shown", (event) => {
  const word = shown.captions[which].words[event.detail];
  if (model().tokens !== "word") return; // pieces of words do not join to a beginning
  event.target.querySelectorAll("output > span").forEach((span, i) => {
    const { text } = word.alternatives[i];
    if (/^<.*>$/.test(text) || text === word.text) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "other";
    button.setAttribute("aria-label", `${span.textContent}, say it instead of ${word.text}`);
    button.append(...span.childNodes);
    button.addEventListener("click", () => choose(event.detail, text));
    span.replaceWith(button);
  });
});

const choose = (index, text) => {
  const words = shown.captions[which].words.slice(0, index).map((word) => word.text);
  $("prefix").value = [...words, text].join(" ");
  write({ compare: true }).then(() => $("view").querySelectorAll("button[data-word]")[index]?.focus());
};

$("view").addEventListener("click", (event) => {
  const word = event.target.closest("button[data-word]");
  if (word) word.closest(".regard").dataset.pinned = "yes";
});
$("view").addEventListener("keydown", (event) => {
  const box = event.target.closest(".regard");
  if (!box) return;
  const others = [...box.querySelectorAll(".other")];
  const at = others.indexOf(event.target);
  if (event.key === "Escape") delete box.dataset.pinned;
  if (event.target.dataset.word && event.key === "ArrowDown" && others.length) others[0].focus();
  else if (at >= 0 && event.key === "ArrowRight") others[at + 1]?.focus();
  else if (at >= 0 && event.key === "ArrowLeft") others[at - 1]?.focus();
  else if (at >= 0 && ["ArrowUp", "Escape"].includes(event.key)) box.querySelector("button[aria-pressed=true]").focus();
  else return;
  event.preventDefault();
});

// --- pictures ------------------------------------------------------------------------------

const bring = async (blob, name) => {
  picture = { blob, name: name || "picture", drawn: false };
  $("before").hidden = true;
  $("prefix").value = "";
  const bitmap = await createImageBitmap(blob).catch(() => null); // the service may know more kinds
  $("painting").hidden = !bitmap;
  if (bitmap) {
    painting.show(bitmap);
    picture.drawn = true;
  }
  $("undo").disabled = $("clear").disabled = true;
  await write();
};

const firstPicture = (list) => [...list].find((file) => file.type.startsWith("image/")) ?? list[0];
const bringFrom = (list) => {
  const file = firstPicture(list);
  if (file) bring(file, file.name);
};

$("file").addEventListener("change", () => { bringFrom($("file").files); $("file").value = ""; });
document.addEventListener("paste", (event) => bringFrom(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") bringFrom(event.dataTransfer.files);
  });
}
$("samples").addEventListener("click", async (event) => {
  const button = event.target.closest("[data-sample]");
  if (!button) return;
  const answer = await fetch(`samples/${button.dataset.sample}`);
  bring(await answer.blob(), button.dataset.sample);
});

// --- options -------------------------------------------------------------------------------

const settle = () => {
  const { attention } = model();
  document.querySelector(`[name=attention][value=${attention}]`).checked = true;
  $("context-label").hidden = attention !== "hard";
};

$("options").addEventListener("submit", (event) => event.preventDefault());
$("options").addEventListener("change", (event) => {
  if (event.target.name === "attention") {
    $("model").value = models.find((one) => one.attention === event.target.value).name;
  }
  settle();
  write({ compare: true });
});
let typing = 0;
$("prefix").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => write({ compare: true }), PAUSE);
});
$("forget").addEventListener("click", () => { $("prefix").value = ""; $("prefix").focus(); write({ compare: true }); });
$("brush").addEventListener("input", () => { painting.brush = $("brush").value / 100; });
$("cover").addEventListener("change", () => { painting.cover = $("cover").value; });
$("undo").addEventListener("click", () => painting.undo());
$("clear").addEventListener("click", () => painting.clear());
$("measure").addEventListener("click", () => write({ occlusion: true }));
$("report").addEventListener("click", () => download("html"));
$("numbers").addEventListener("click", () => download("json"));

await during("", async (signal) => {
  const answer = await ask("v1/models", { signal });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  models = told.models.filter((one) => one.medium === "image");
  $("model").replaceChildren(...models.map((one) => new Option(one.name, one.name)));
  for (const radio of document.querySelectorAll("[name=attention]")) {
    radio.disabled = !models.some((one) => one.attention === radio.value);
    if (radio.disabled) radio.parentElement.title = `no model of ${radio.value} attention is served`;
  }
  settle();
});
document.documentElement.dataset.ready = "yes";
