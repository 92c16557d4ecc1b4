"use strict";

const known = JSON.parse(document.getElementById("known").textContent);
const at = (id) => document.getElementById(id);
const WORDS = { vis: "by day", ir: "by night" };

let file = null;          // the query
let answer = null;        // the server's, of the last search
let marks = new Map();    // row of the index -> "right" or "wrong", for this query
let asked = 0;            // searches, of which only the last one's answer counts

// What is known of the gallery

for (const camera of known.cameras) {
  const box = Object.assign(document.createElement("input"), { type: "checkbox", name: "camera", value: camera });
  const label = document.createElement("label");
  label.append(box, ` ${camera}`);
  at("cameras").append(label);
}
at("cameras").hidden = known.cameras.length < 2;
at("times").hidden = !known.times;
if (known.times) {
  for (const input of [at("since"), at("until")]) {
    input.min = known.times[0].slice(0, 16);
    input.max = known.times[1].slice(0, 16);
  }
}

// The query: chosen, dropped or pasted

function take(files) {
  if (!files || !files.length) return;
  file = files[0];
  marks = new Map();
  answer = null;              // the ranking of another image is neither marked nor exported as this one's
  at("found").hidden = true;
  at("file").files = files;  // its name stands there, however the file came
  URL.revokeObjectURL(at("query").src);
  at("query").src = URL.createObjectURL(file);
  at("query").alt = `The image that is searched for: ${file.name}`;
  at("query").hidden = false;
  search();
}

at("query").addEventListener("error", () => { at("query").hidden = true; });  // a TIFF, for instance
at("file").addEventListener("change", () => take(at("file").files));
document.addEventListener("paste", (event) => take(event.clipboardData.files));
document.addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();  // beside the frame, too: the browser would leave the page and open the image
  at("drop").classList.remove("over");
  take(event.dataTransfer.files);
});
at("form").addEventListener("submit", (event) => event.preventDefault());
at("form").addEventListener("change", (event) => { if (event.target !== at("file") && file) search(); });

// Searching

async function post(path, query, body) {
  let response;
  try {
    response = await fetch(`${path}?${query}`, { method: "POST", headers: { "X-Token": known.token }, body });
  } catch {
    throw new Error("The program does not answer; is it still running?");
  }
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw new Error(told.error || `The program answered ${response.status}.`);
  }
  return response;
}

function complain(error) {
  at("error").textContent = error.message;
  at("taken").textContent = "";
  at("status").textContent = "";
}

async function search() {
  const number = ++asked;
  const chosen = new FormData(at("form"));
  const query = new URLSearchParams({ modality: chosen.get("modality"), top: at("top").value });
  for (const camera of chosen.getAll("camera")) query.append("camera", camera);
  for (const bound of ["since", "until"]) if (at(bound).value) query.set(bound, at(bound).value);
  at("error").textContent = "";
  at("status").textContent = "Searching ...";
  at("results").setAttribute("aria-busy", "true");
  try {
    if (file.size > known.bytes) {
      throw new Error(`The file is too large; ${Math.round(known.bytes / 1e6)} MB are allowed.`);
    }
    const found = await (await post("search", query, file)).json();
    if (number !== asked) return;
    answer = found;
    show();
  } catch (error) {
    if (number !== asked) return;
    answer = null;
    at("found").hidden = true;
    complain(error);
  } finally {
    if (number === asked) at("results").removeAttribute("aria-busy");
  }
}

function show() {
  const { modality, guessed, images, seconds, results } = answer;
  at("taken").textContent = guessed
    ? `Taken ${WORDS[modality]}, as guessed from its colours: choose above if that is wrong.` : `Taken ${WORDS[modality]}.`;
  const first = !results.length ? "; no image of the gallery is left"
    : results.length === 1 ? "; the first is shown" : `; the first ${results.length} are shown`;
  at("status").textContent = `${howMany(images, "image")} ranked in ${seconds.toFixed(2)} s${first}.`;
  at("results").replaceChildren(...results.map(card));
  at("found").hidden = !results.length;
}

function howMany(number, one) {
  return `${number.toLocaleString("en")} ${one}${number === 1 ? "" : "s"}`;
}

function element(tag, text, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text) made.textContent = text;
  return made;
}

function card(result, place) {
  const item = element("li", "", { tabIndex: place ? -1 : 0 });
  item.dataset.row = result.row;
  const image = element("img", "", { src: `image/${result.row}?${known.start}`, alt: `Rank ${place + 1}: ${result.name}`, loading: "lazy" });
  const buttons = element("div", "", { className: "marks" });
  for (const mark of ["right", "wrong"]) {
    const button = element("button", mark === "right" ? "✓ right" : "✗ wrong", { type: "button" });
    button.dataset.mark = mark;
    button.setAttribute("aria-label", `${mark} person: rank ${place + 1}`);
    button.addEventListener("click", () => {
      setMark(item, marks.get(result.row) === mark ? "" : mark);
    });
    buttons.append(button);
  }
  const told = [result.camera && `camera ${result.camera}`, result.time.replace("T", " ")].filter(Boolean).join(", ");
  item.append(image, element("p", `${place + 1}. similarity ${result.score.toFixed(3)}`, { className: "score" }),
    element("p", result.name), ...(told ? [element("p", told, { className: "quiet" })] : []), buttons);
  draw(item);
  return item;
}

// Marks

function setMark(item, mark) {
  const row = Number(item.dataset.row);
  if (mark) marks.set(row, mark);
  else marks.delete(row);
  draw(item);
  const rank = [...at("results").children].indexOf(item) + 1;
  at("status").textContent = mark ? `Rank ${rank} is marked as the ${mark} person.` : `Rank ${rank} has no mark.`;
}

function draw(item) {
  const mark = marks.get(Number(item.dataset.row)) || "";
  item.className = mark;
  for (const button of item.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.mark === mark));
  }
}

at("results").addEventListener("focusin", (event) => {  // Tab leads to one card, arrows to the others
  const item = event.target.closest("li");
  for (const other of at("results").children) other.tabIndex = other === item ? 0 : -1;
});

at("results").addEventListener("keydown", (event) => {
  const item = event.target.closest("li");
  if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
  const items = [...at("results").children];
  const columns = items.filter((other) => other.offsetTop === items[0].offsetTop).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  const ends = { Home: 0, End: items.length - 1 };
  const wanted = { r: "right", w: "wrong", u: "" }[event.key.toLowerCase()];
  if (event.key in steps || event.key in ends) {
    const to = event.key in ends ? ends[event.key] : items.indexOf(item) + steps[event.key];
    if (items[to]) items[to].focus();
  } else if (wanted !== undefined) {
    setMark(item, wanted);
  } else {
    return;
  }
  event.preventDefault();
});

// Export

for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", async () => {
    const format = button.dataset.format;
    const results = answer.results.map(({ row, score }) => [row, score, marks.get(row) || ""]);
    try {
      const body = JSON.stringify({ query: file.name, modality: answer.modality, results });
      const content = await (await post("export", new URLSearchParams({ format }), body)).blob();
      const link = element("a", "", { href: URL.createObjectURL(content), download: `ranking.${format}` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      at("status").textContent = `ranking.${format} has ${howMany(results.length, "result")}, ${results.filter((line) => line[2]).length} of them marked.`;
    } catch (error) {
      complain(error);
    }
  });
}
