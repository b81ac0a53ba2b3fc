"use strict";
// Draws window.DATA.charts into the elements that name one, in the page's own colours, when they come into view.

const dark = matchMedia("(prefers-color-scheme: dark)");
const COLOURS = ["#2f6fd0", "#d9822b", "#3f9b5f", "#b0479b", "#8a6d3b", "#1f9aa8", "#c0392b", "#6c757d"];

function themed(chart, width) {
  const style = getComputedStyle(document.documentElement);
  const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true };
  const ternary = { bgcolor: "rgba(0,0,0,0)", aaxis: axis, baxis: axis, caxis: axis };
  const template = {
    layout: {
      font: { color: ink, size: 13, family: "system-ui, 'DejaVu Sans', sans-serif" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      colorway: COLOURS, xaxis: axis, yaxis: axis, ternary,
      hoverlabel: { font: { size: 13 } },
    },
  };
  const layout = { margin: { l: 56, r: 16, t: 16, b: 52 }, ...structuredClone(chart.layout), template, autosize: true };
  const data = structuredClone(chart.data);
  const narrow = width < 600;
  if (layout.ternary) {
    layout.height = narrow ? width + 240 : Math.min(layout.height, width + 130);
    layout.margin = narrow ? { l: 60, r: 60, t: 48, b: 250 } : { l: 56, r: 20, t: 48, b: 110 };
    layout.legend = { yanchor: "top", ...layout.legend, ...(narrow ? { y: -0.62 } : {}) };
    for (const name of narrow ? ["baxis", "caxis"] : []) {
      layout.ternary[name].title.text = layout.ternary[name].title.text.replace(/ |(?<=-)/g, "<br>");
    }
  }
  for (const trace of data) {
    if (trace.ink) { // drawn over a field of colours
      if (trace.line) trace.line.color = ink;
      if (trace.marker) { trace.marker.color = ink; trace.marker.line = { width: 0 }; }
      delete trace.ink;
    }
    if (trace.grid) {
      const { l, r, t, b } = layout.margin;
      const side = Math.min(width - l - r - (narrow ? 0 : 70), (layout.height - t - b) * 1.155);
      if (narrow) Object.assign(trace.marker.colorbar, { orientation: "h", x: 0.5, y: -0.5, yanchor: "bottom", len: 1.2 });
      trace.marker.size = Math.max(4, (1.16 * side) / trace.grid);
      trace.showlegend = false;
      delete trace.grid;
    }
  }
  if (narrow && data[0].orientation === "h") layout.xaxis.range[1] *= 1.5; // room for the figures beside the bars
  layout.legend = { orientation: "h", yanchor: "bottom", y: 1.02, x: 0, ...layout.legend };
  return [data, layout];
}

// A weight map: the figures over the weights of three components, the paper's regions, the trials, the recipe.
function weightMap(map) {
  const data = [];
  const add = (name, points, style) => {
    const [a, b, c] = [0, 1, 2].map((axis) => points.map((point) => point[axis]));
    if (points.length) data.push({ type: "scatterternary", mode: "markers", name, a, b, c, ...style });
  };
  add(map.metric, map.points, {
    marker: {
      symbol: "hexagon", color: map.values, colorscale: "Viridis",
      colorbar: { title: { text: map.metric }, thickness: 12, len: 0.7 },
    },
    text: map.points.map((point, number) => [
      `${map.metric} ${map.values[number].toFixed(4)}`,
      ...map.names.map((name, axis) => `${name} ${point[axis].toFixed(3)}`),
    ].join("<br>")),
    hoverinfo: "text", grid: map.steps,
  });
  const over = { hoverinfo: "skip", ink: true };
  for (const [reading, dash] of [["similarity", "solid"], ["distance", "dash"]]) {
    add(`region, ${reading}`, map[reading] || [], { mode: "lines", line: { dash, width: 2 }, ...over });
  }
  add("trials", map.tried, { marker: { size: 4, opacity: 0.55 }, ...over });
  const star = { symbol: "star", size: 15, color: "#e0402f", line: { color: "white", width: 1.5 } };
  add("the recipe's weights", map.star, { marker: star, hoverinfo: "name" });
  const axis = (name) => ({ title: { text: name.split(" (")[0] }, nticks: 5 });
  const [aaxis, baxis, caxis] = map.names.map(axis);
  return { data, layout: { ternary: { aaxis, baxis, caxis }, height: 560, legend: { orientation: "h", y: -0.12 } } };
}

// Figures in lines, with their intervals where the lines are few; the table beside has them all.
function lineChart({ rows, axis, metric }) {
  const names = [...new Set(rows.map((row) => row.name))];
  const data = names.map((name) => {
    const own = rows.filter((row) => row.name === name);
    const trace = { type: "scatter", mode: "lines+markers", name };
    const short = (value) => Number(value.toFixed(5));
    Object.assign(trace, { x: own.map((row) => row.at), y: own.map((row) => short(row.mean)) });
    const bars = own.map((row) => (row.interval ? short(row.interval[1] - row.mean) : 0));
    return names.length > 3 ? trace : { ...trace, error_y: { type: "data", array: bars, thickness: 1, width: 2 } };
  });
  const xaxis = { title: { text: axis }, type: "category" };
  return { data, layout: { height: 380, showlegend: true, xaxis, yaxis: { title: { text: metric }, rangemode: "tozero" } } };
}

function histogram({ of, values }) {
  const [xaxis, yaxis] = [of, "images"].map((text) => ({ title: { text } }));
  const data = [{ type: "histogram", x: values, nbinsx: 40, name: "images" }];
  return { data, layout: { xaxis, yaxis, bargap: 0.05, height: 260 } };
}

// Optuna's own charts, with this report's words and sizes.
const OPTUNA = {
  history({ data, layout }) {
    for (const trace of data) {
      if (trace.name !== "Infeasible Trial") trace.name = trace.name === "Best Value" ? "best so far" : "a trial";
    }
    layout.xaxis = { title: { text: "trial" } };
  },
  importances({ data, layout }) {
    const [{ x, y }] = data;
    const xaxis = { title: { text: "share" }, range: [0, 1.15 * Math.max(...x)] };
    Object.assign(layout, { height: 100 + 26 * y.length, showlegend: false, yaxis: {}, xaxis });
  },
  slices({ layout }) {
    for (const key of Object.keys(layout).filter((name) => name.startsWith("xaxis"))) {
      const text = layout[key].title.text.replace(/ (and|of) /g, "<br>$1 ").replaceAll(", ", ",<br>");
      layout[key].title = { text };
    }
  },
};

function charted(name) {
  const told = window.DATA.charts[name];
  if (!told) return told;
  if (!told.data) return told.points ? weightMap(told) : told.rows ? lineChart(told) : histogram(told);
  const chart = structuredClone(told);
  OPTUNA[name](chart);
  return chart;
}

function draw(box) {
  const chart = charted(box.dataset.chart);
  if (chart && box.offsetParent !== null) {
    Plotly.react(box, ...themed(chart, box.clientWidth), { displayModeBar: false, responsive: true });
  }
}

const boxes = [...document.querySelectorAll("[data-chart]")];
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }
}, { rootMargin: "400px" });
boxes.forEach((box) => seen.observe(box));
dark.addEventListener("change", () => boxes.filter((box) => box.querySelector(".main-svg")).forEach(draw));

const chosen = document.getElementById("map");
if (chosen) {
  chosen.addEventListener("change", () => {
    for (const part of document.querySelectorAll(".map")) part.hidden = part.dataset.map !== chosen.value;
    draw(document.querySelector(".map:not([hidden]) [data-chart]"));
  });
}
