"use strict";
// Text enters the page through textContent alone: nothing of a record is ever read as HTML.
const byId = (id) => document.getElementById(id);
const table = byId("table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
const samples = JSON.parse(byId("data").textContent).samples;
const words = new Intl.Collator("en", { numeric: true });
const chosen = { comparison: byId("by-comparison"), split: byId("by-split"), method: byId("by-method"), outcome: byId("by-outcome"), seed: byId("by-seed") };
let place = 0;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function sortBy(index) {
  const head = heads[index], numeric = head.classList.contains("number");
  const before = head.getAttribute("aria-sort");
  const direction = before === "none" ? (numeric ? "descending" : "ascending") : before === "ascending" ? "descending" : "ascending";
  const sign = direction === "ascending" ? 1 : -1;
  const number = (row) => { const value = row.cells[index].dataset.value; return value === undefined || value === "" ? null : Number(value); };
  const order = (one, other) => {
    if (!numeric) return sign * words.compare(one.cells[index].textContent, other.cells[index].textContent);
    const a = number(one), b = number(other);
    if (a === null || b === null) return (a === null) - (b === null); // what was not measured stands last, either way
    return sign * (a - b);
  };
  body.append(...[...body.rows].sort(order));
  for (const other of heads) other.setAttribute("aria-sort", other === head ? direction : "none");
  byId("status").textContent = `Sorted by ${head.textContent}, ${direction}.`;
}

const fits = (item) => (!chosen.comparison.value || item.comparison === chosen.comparison.value) && (!chosen.split.value || item.split === undefined || item.split === chosen.split.value);
const fitsMethod = (label) => label.toLowerCase().includes(chosen.method.value.trim().toLowerCase());

function filter() {
  let shown = 0;
  for (const row of body.rows) {
    row.hidden = !(fits(row.dataset) && fitsMethod(row.dataset.label));
    shown += !row.hidden;
  }
  for (const part of document.querySelectorAll("div[data-comparison], p[data-comparison]")) part.hidden = !fits({ comparison: part.dataset.comparison });
  for (const part of document.querySelectorAll("details[data-label]")) part.hidden = !fitsMethod(part.dataset.label);
  byId("status").textContent = `${shown} of ${body.rows.length} rows shown.`;
  place = 0;
  showSample();
}

const answersOf = (problem) => problem.answers.filter((answer) => fitsMethod(answer.label) && (!chosen.seed.value || String(answer.seed) === chosen.seed.value));

function problems() {
  return samples.filter((problem) => {
    const found = answersOf(problem);
    if (!fits(problem) || !found.length) return false;
    if (chosen.outcome.value === "wrong") return found.some((answer) => answer.right === false);
    const said = found.map((answer) => (answer.right === null ? answer.lines.join("\n") : answer.right));
    return chosen.outcome.value !== "differ" || new Set(said).size > 1;
  });
}

function answerCard(answer) {
  const card = element("article", "answer"), head = element("h3");
  head.append(element("bdi", "", answer.shown), ` (seed ${answer.seed})`);
  card.append(head);
  if (answer.right !== null) card.append(element("div", `verdict ${answer.right ? "right" : "wrong"}`, answer.right ? "✓ right" : "✗ wrong"));
  const list = element("ol");
  const lines = answer.wrong > answer.lines.length ? [...answer.lines, ""] : answer.lines;
  lines.forEach((line, index) => {
    const item = element("li", index + 1 === answer.wrong ? "first-wrong" : "", line);
    if (index + 1 === answer.wrong) item.append(element("span", "mark", index < answer.lines.length ? "  ← first wrong step" : "← a step is missing here"));
    list.append(item);
  });
  card.append(list);
  return card;
}

function showSample() {
  const found = problems(), problem = found[place], sample = byId("sample");
  byId("previous").disabled = place <= 0;
  byId("next").disabled = place >= found.length - 1;
  byId("place").textContent = found.length ? `${place + 1} of ${found.length}` : samples.length ? "No answer fits the filters." : "The records hold no answers.";
  sample.replaceChildren();
  if (!problem) return;
  const box = element("div", "problem"), cards = element("div", "answers");
  box.append(element("h3", "", "Prompt"), element("div", "text", problem.prompt), element("h3", "", "Target"), element("div", "text", problem.target));
  cards.append(...answersOf(problem).map(answerCard));
  sample.append(box, cards);
}

function start() {
  const seeds = [...new Set(samples.flatMap((problem) => problem.answers.map((answer) => answer.seed)))].sort((a, b) => a - b);
  for (const seed of seeds) chosen.seed.append(new Option(String(seed), String(seed)));
  chosen.seed.append(new Option("all", ""));
  heads.forEach((head, index) => head.firstElementChild.addEventListener("click", () => sortBy(index)));
  for (const control of Object.values(chosen)) control.addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("previous").addEventListener("click", () => { place -= 1; showSample(); });
  byId("next").addEventListener("click", () => { place += 1; showSample(); });
  filter();
}

start();
