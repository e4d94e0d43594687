"use strict";
// Curves with values on hover and series that a click hides; tables that a click sorts. No library, no request.
const charts = JSON.parse(document.getElementById("data").textContent);
const STROKES = ["", "7 3", "2 3", "9 3 2 3", "4 2"];
const HUES = [205, 25, 145, 320, 265, 55, 0, 180];
const HEIGHT = 260, LEFT = 54, RIGHT = 10, TOP = 8, BOTTOM = 34;

const parsed = document.createElement("template");
parsed.innerHTML = "<svg></svg>";
const SVG = parsed.content.firstChild.namespaceURI; // known to the parser, so no address stands in the page

function node(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.appendChild(made);
  return made;
}

function shown(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

function ticks(low, high, wanted) {
  if (!(high > low)) return [low];
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(by => by * power >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Math.abs(at) < step * 1e-9 ? 0 : at);
  return found;
}

function style(index) {
  return { fill: "none", "stroke-width": 2, "stroke-dasharray": STROKES[index % STROKES.length], stroke: `hsl(${HUES[index % HUES.length]} 60% 48%)` };
}

function draw(place, chart) {
  const hidden = new Set(), WIDTH = Math.max(280, Math.min(560, place.clientWidth));
  const picture = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": chart.series.map(one => one.name).join(", ") }, place);
  const value = document.createElement("div");
  value.className = "value";
  place.appendChild(value);
  const legend = document.createElement("div");
  legend.className = "legend";
  place.appendChild(legend);

  function redraw() {
    picture.replaceChildren();
    const lines = chart.series.filter(one => !hidden.has(one.name));
    const points = lines.flatMap(one => one.points);
    if (!points.length) return;
    const levels = Object.entries(chart.levels);
    const xs = points.map(p => p[0]), ys = [...points.map(p => p[1]), ...levels.map(one => one[1])];
    const x0 = Math.min(...xs), x1 = Math.max(...xs);
    let y0 = Math.min(...ys), y1 = Math.max(...ys);
    if (y0 === y1) { y0 -= 0.5; y1 += 0.5; }
    const margin = (y1 - y0) * 0.05;
    y0 -= margin; y1 += margin;
    const px = x => LEFT + (x1 > x0 ? (x - x0) / (x1 - x0) : 0.5) * (WIDTH - LEFT - RIGHT);
    const py = y => TOP + (1 - (y - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
    for (const y of ticks(y0, y1, 5)) {
      node("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: py(y), y2: py(y) }, picture);
      node("text", { x: LEFT - 6, y: py(y) + 4, "text-anchor": "end" }, picture).textContent = shown(y);
    }
    for (const x of ticks(x0, x1, 5)) node("text", { x: px(x), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, picture).textContent = shown(x);
    node("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, picture).textContent = chart.x;
    let above = Infinity;  // from the lowest level up, so that names of near levels stand over each other
    for (const [name, level] of [...levels].sort((a, b) => a[1] - b[1])) {
      node("line", { class: "level", x1: LEFT, x2: WIDTH - RIGHT, y1: py(level), y2: py(level) }, picture);
      above = Math.min(py(level) - 3, above - 12);
      node("text", { class: "name", x: WIDTH - RIGHT, y: above, "text-anchor": "end" }, picture).textContent = `${name} ${shown(level)}`;
    }
    for (const one of lines) {
      const index = chart.series.indexOf(one);
      node("path", { d: one.points.map((p, i) => `${i ? "L" : "M"}${px(p[0]).toFixed(1)} ${py(p[1]).toFixed(1)}`).join(""), ...style(index) }, picture);
      if (one.points.length === 1) node("circle", { cx: px(one.points[0][0]), cy: py(one.points[0][1]), r: 3, fill: style(index).stroke }, picture);
    }
    const cursor = node("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" }, picture);
    picture.onpointermove = event => {
      const box = picture.getBoundingClientRect();
      const at = (event.clientX - box.left) / box.width * WIDTH;
      const nearest = xs.reduce((best, x) => Math.abs(px(x) - at) < Math.abs(px(best) - at) ? x : best, xs[0]);
      cursor.setAttribute("x1", px(nearest)); cursor.setAttribute("x2", px(nearest)); cursor.setAttribute("visibility", "visible");
      const said = lines.map(one => {
        const point = one.points.reduce((best, p) => Math.abs(p[0] - nearest) < Math.abs(best[0] - nearest) ? p : best, one.points[0]);
        return `${one.name} ${shown(point[1])}`;
      });
      value.textContent = `${chart.x} ${shown(nearest)}: ${said.join(", ")}`;
    };
    picture.onpointerleave = () => { cursor.setAttribute("visibility", "hidden"); value.textContent = ""; };
  }

  chart.series.forEach((one, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    node("line", { x1: 0, x2: 29, y1: 6, y2: 6, ...style(index) }, node("svg", { viewBox: "0 0 29 12" }, button));
    button.append(one.name);
    button.onclick = () => {
      hidden.has(one.name) ? hidden.delete(one.name) : hidden.add(one.name);
      button.setAttribute("aria-pressed", String(!hidden.has(one.name)));
      redraw();
    };
    legend.appendChild(button);
  });
  redraw();
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.querySelector("button").onclick = () => {
      const falling = head.getAttribute("aria-sort") === "descending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "ascending" : "descending");
      const key = row => row.cells[column].textContent.trim();
      const number = text => parseFloat(text.replace(/,/g, ""));
      const rows = [...body.rows].sort((a, b) => {
        const [one, two] = [key(a), key(b)], [x, y] = [number(one), number(two)];
        const order = Number.isNaN(x) || Number.isNaN(y) ? (Number.isNaN(x) - Number.isNaN(y)) || one.localeCompare(two) : y - x;
        return falling ? -order : order;
      });
      body.replaceChildren(...rows);
    };
  });
}

document.querySelectorAll("[data-chart]").forEach(place => draw(place, charts[Number(place.dataset.chart)]));
document.querySelectorAll("table").forEach(sortable);
