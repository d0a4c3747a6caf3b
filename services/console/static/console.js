// News from the services, charts, and copying. Pages work without any of it; this keeps them fresh.

const link = document.getElementById("link");

function listensTo(element, service) {
  return (element.dataset.live || "").split(" ").includes(service);
}

// Nothing is drawn again under the hands of a person who answers a question or fills in a form.
function busy(main) {
  return main.querySelector("details.action[open]") || main.contains(document.activeElement?.closest("form"));
}

document.addEventListener("htmx:before:swap", (event) => {
  const main = document.getElementById("main");
  if (main && busy(main)) event.preventDefault(); // asked before the person began
});
document.addEventListener(
  "toggle",
  (event) => {
    if (event.target.matches("details.action") && !event.target.open) htmx.trigger(document.getElementById("main"), "news");
  },
  true,
);

// -- news: one stream a page; the browser reconnects by itself and says what it saw last -------------------------
function follow() {
  const stream = new EventSource("/live");
  const show = (text, state) => {
    link.textContent = text;
    link.className = "link " + state;
  };
  stream.addEventListener("hello", () => show("live", "on"));
  stream.addEventListener("change", (event) => {
    const main = document.getElementById("main");
    if (listensTo(main, event.data) && !busy(main)) htmx.trigger(main, "news");
    for (const plot of main.querySelectorAll("[data-chart]")) if (listensTo(plot, event.data)) draw(plot);
  });
  stream.addEventListener("error", () => {
    show("reconnecting", "off");
    if (stream.readyState === EventSource.CLOSED) setTimeout(follow, 3000);
  });
  addEventListener("pagehide", () => stream.close());
}

// -- charts ------------------------------------------------------------------------------------------------------
const plots = new WeakMap();
const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];

async function draw(element) {
  let answer;
  try {
    answer = await fetch(element.dataset.chart);
  } catch {
    return;
  }
  if (!answer.ok) {
    if (!plots.has(element)) element.textContent = "No values: the service behind this chart does not answer.";
    return;
  }
  const found = await answer.json();
  const values = [found.x, ...found.series.map((series) => series.values)];
  const names = found.series.map((series) => series.label).join("\n");
  const old = plots.get(element);
  if (old && old.names === names) {
    old.plot.setData(values);
    return;
  }
  if (old) old.plot.destroy();
  element.textContent = found.x.length ? "" : "Nothing measured yet.";
  plots.delete(element);
  if (!found.x.length) return;
  plots.set(element, { names, plot: new uPlot(options(element, found), values, element) });
}

function options(element, found) {
  const colour = (name) => {
    // A canvas does not understand light-dark(): let the element work out what the name means now.
    element.style.color = `var(${name})`;
    const found = getComputedStyle(element).color;
    element.style.color = "";
    return found;
  };
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--edge"), width: 1 }, ticks: { stroke: colour("--edge") } };
  const show = { number: (value) => (value && Math.abs(value) < 0.01 ? value.toExponential(1) : value.toPrecision(3)), percent: (value) => (value * 100).toFixed(0) + " %" }[found.format || "number"];
  return {
    width: element.clientWidth,
    height: Number(element.dataset.height),
    cursor: { points: { size: 6 } },
    scales: { x: { time: found.x_label === "time" } },
    axes: [{ ...axis, label: found.x_label, labelSize: 20 }, { ...axis, size: 62, values: (_plot, ticks) => ticks.map(show) }],
    series: [
      { label: found.x_label },
      ...found.series.map((series, place) => ({
        label: series.label,
        stroke: colour(COLOURS[place % COLOURS.length]),
        width: 2,
        dash: series.dash ? [6, 4] : undefined,
        spanGaps: true,
        points: { show: found.x.length < 40 },
        value: (_plot, value) => (value == null ? "–" : show(value)),
      })),
    ],
  };
}

function drawAll() {
  for (const element of document.querySelectorAll("[data-chart]")) if (!plots.has(element)) draw(element);
}

addEventListener("resize", () => {
  for (const element of document.querySelectorAll("[data-chart]")) {
    plots.get(element)?.plot.setSize({ width: element.clientWidth, height: Number(element.dataset.height) });
  }
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const element of document.querySelectorAll("[data-chart]")) {
    plots.get(element)?.plot.destroy();
    plots.delete(element);
    draw(element);
  }
});

// -- copying -----------------------------------------------------------------------------------------------------
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select the text to copy it";
  }
  setTimeout(() => (button.textContent = before), 1500);
});

document.addEventListener("htmx:after:swap", drawAll);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") for (const open of document.querySelectorAll("details.action[open]")) open.open = false;
});
drawAll();
if (link) follow();
