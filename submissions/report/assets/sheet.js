"use strict";
// Shows the queries of window.DATA beside their lists. All text is set as text: names are never read as HTML.

const data = window.DATA;
const AT_ONCE = 24;
const NEAR = 3; // a near miss stands within so many times top_k
const place = (id) => document.getElementById(id);
const [first, second, order, search] = ["first", "second", "order", "name"].map(place);
const sheet = place("sheet");
let queries = []; // numbers, as filtered and sorted
let shown = 0;
let current = -1; // place in `queries`
let large = []; // what the large view steps through
let at = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function file(picture) {
  return picture === null ? null : `${data.pictures}/${picture}.jpg`;
}

function picture(source, alt) {
  if (source === null) return element("span", "absent", "no picture: there are too many");
  const image = element("img");
  image.loading = "lazy";
  image.decoding = "async";
  image.alt = alt;
  image.src = source;
  return image;
}

function items(list, query) {
  const correct = data.correct[query];
  const found = list.ranks[query].map((image, number) => {
    const hit = correct === null ? null : correct.includes(image);
    return {
      id: data.images[image][0],
      source: file(data.images[image][1]),
      kind: hit === null ? "" : hit ? "hit" : "fault",
      sign: hit === null ? "" : hit ? "✓ " : "✗ ",
      said: hit === null ? "" : hit ? ", right" : ", wrong",
      rank: String(number + 1),
      score: list.scores === null ? "" : list.scores[query][number].toFixed(3),
      list: list.name,
    };
  });
  const missed = list.missed[query].map(([image, rank, why]) => ({
    id: data.images[image][0],
    source: file(data.images[image][1]),
    kind: "missed",
    sign: "○ ",
    said: rank && rank <= data.top_k ? ", right, further down the list" : `, missed${why ? `, ${why}` : ""}`,
    rank: rank ? `place ${rank}` : list.deep ? "place over 1000" : "place unknown",
    short: rank ? String(rank) : list.deep ? "> 1000" : "?",
    score: "",
    list: list.name,
  }));
  return [found, missed];
}

function figure(item, open) {
  const made = element("figure", `item ${item.kind}`);
  const button = element("button");
  button.type = "button";
  button.title = item.id;
  button.append(picture(item.source, `${item.id}, ${item.rank}${item.said}`));
  button.addEventListener("click", open);
  const caption = element("figcaption");
  caption.append(element("b", "", item.sign + (item.short || item.rank)), document.createTextNode(item.score ? ` ${item.score}` : ""));
  made.append(button, caption);
  return made;
}

function card(query, number) {
  const made = element("article", "query");
  made.tabIndex = -1;
  made.dataset.query = data.queries[query][0];
  const asked = element("div", "asked");
  asked.append(element("h3", "", data.queries[query][0]));
  const button = element("button");
  button.type = "button";
  button.append(picture(file(data.queries[query][1]), `query ${data.queries[query][0]}`));
  asked.append(button);
  const chosen = second.value === "" || second.value === first.value ? [first.value] : [first.value, second.value];
  const lists = element("div", chosen.length > 1 ? "lists two" : "lists");
  const all = [];
  for (const which of chosen) {
    const list = data.lists[which];
    const box = element("section", "list");
    const value = list.precisions[query];
    box.append(element("h4", "", list.name + (value === null ? "" : ` · ${data.metric.replace("MAP", "AP")} ${value.toFixed(3)}`)));
    for (const part of items(list, query)) {
      if (!part.length) continue;
      const row = element("div", "row");
      for (const item of part) {
        const index = all.push(item) - 1;
        row.append(figure(item, () => { step(number, false); openLarge(query, all, index); }));
      }
      box.append(row);
    }
    lists.append(box);
  }
  button.addEventListener("click", () => { step(number, false); openLarge(query, all, 0); });
  made.open = () => openLarge(query, all, 0);
  made.append(asked, lists);
  return made;
}

function openLarge(query, all, index) {
  large = all;
  const [name, source] = data.queries[query];
  const [asked] = document.querySelectorAll(".pair figure");
  asked.querySelector("img").src = file(source) || "data:,";
  asked.querySelector("img").alt = `query ${name}`;
  asked.querySelector("figcaption").textContent = `query ${name}`;
  turn(index);
  if (!place("large").open) place("large").showModal();
}

function turn(index) {
  if (!large.length) return;
  at = (index + large.length) % large.length;
  const item = large[at];
  const box = document.querySelectorAll(".pair figure")[1];
  box.querySelector("img").src = item.source || "data:,";
  box.querySelector("img").alt = item.id;
  box.querySelector("figcaption").textContent =
    `${item.sign}${item.rank}${item.said} · ${item.id}${item.score ? ` · score ${item.score}` : ""} · ${item.list}`;
}

function common(query) {
  const other = data.lists[second.value === "" ? first.value : second.value].ranks[query].slice(0, data.top_k);
  const own = data.lists[first.value].ranks[query].slice(0, data.top_k);
  return own.filter((image) => other.includes(image)).length / own.length;
}

function refresh() {
  const list = data.lists[first.value];
  const wanted = search.value.trim().toLowerCase();
  queries = data.queries.map((_, query) => query).filter((query) => data.queries[query][0].toLowerCase().includes(wanted));
  const by = (value) => queries.sort((a, b) => value(a) - value(b) || a - b);
  if (order.value === "worst") {
    by((query) => (list.precisions[query] === null ? 2 : list.precisions[query]));
  } else if (order.value === "near") {
    const nearest = (query) => (list.missed[query].find(([, rank]) => rank > data.top_k) || [0, Infinity])[1];
    queries = queries.filter((query) => nearest(query) <= NEAR * data.top_k);
    by(nearest);
  } else if (order.value === "certain") {
    if (list.lead !== null) by((query) => list.lead[query]);
  } else if (order.value === "differ") {
    queries = queries.filter((query) => common(query) < 1);
    by(common);
  }
  const mean = list.map === null ? "" : ` · ${data.metric} ${list.map.toFixed(4)}`;
  const asks = order.value === "differ" && (second.value === "" || second.value === first.value);
  place("count").textContent = asks ? "choose a second list" : `${queries.length} of ${data.queries.length} queries${mean}`;
  sheet.replaceChildren();
  shown = 0;
  current = -1;
  more();
}

function more() {
  const end = Math.min(queries.length, shown + AT_ONCE);
  const made = [];
  for (; shown < end; shown += 1) made.push(card(queries[shown], shown));
  sheet.append(...made);
}

function step(to, move = true) {
  if (!queries.length) return;
  current = Math.max(0, Math.min(queries.length - 1, to));
  while (shown <= current) more();
  const made = sheet.children[current];
  made.focus({ preventScroll: true });
  if (move) made.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (place("large").open) {
    if (event.key === "ArrowRight") turn(at + 1);
    if (event.key === "ArrowLeft") turn(at - 1);
    return;
  }
  if (["INPUT", "SELECT"].includes(document.activeElement.tagName)) return;
  if (event.key === "j" || event.key === "ArrowDown") { event.preventDefault(); step(current + 1); }
  if (event.key === "k" || event.key === "ArrowUp") { event.preventDefault(); step(current - 1); }
  if (event.key === "Enter" && document.activeElement.classList.contains("query")) {
    event.preventDefault(); // or the same key presses the close button, which gets the focus
    document.activeElement.open();
  }
});

place("previous").addEventListener("click", () => turn(at - 1));
place("next").addEventListener("click", () => turn(at + 1));
for (const control of [first, second, order]) control.addEventListener("change", refresh);
search.addEventListener("input", refresh);
new IntersectionObserver((seen) => { if (seen[0].isIntersecting && shown < queries.length) more(); }, { rootMargin: "1200px" }).observe(place("more"));
refresh();
