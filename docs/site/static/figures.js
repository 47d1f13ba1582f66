// Draws a plotly figure where it stands, once the page is loaded. A still picture has nothing but
// its marks; on a narrow page the colour bar goes below, and on a slide a figure fills the screen.
function draw(id, data, layout, still) {
  const place = document.getElementById(id), slide = document.body.className === "slides";
  if (!still && !slide && data.some((trace) => trace.texttemplate)) // words in cells need room:
    place.style.minWidth = `${layout.width ?? 620}px`; // a narrow page scrolls the figure
  else delete layout.width;
  const small = place.clientWidth < 620;
  if (still) bare(data, layout);
  else if (small) narrow(data, layout);
  const menus = layout.updatemenus ?? [];
  if (menus.length) layout.margin.t -= 42; // the room that plotly's menu took
  delete layout.updatemenus;
  if (slide) layout.height = 0.86 * innerHeight;
  // Plotly puts the first of several rows of a title above the frame.
  const lower = /<br>/.test(layout.title.text) ? 24 : 10;
  Object.assign(layout.title, { y: 1 - lower / layout.height, yref: "container", yanchor: "top" });
  place.style.height = `${layout.height}px`;
  const options = { responsive: true, staticPlot: still, displaylogo: false };
  if (small) options.displayModeBar = false;
  options.modeBarButtons = [["toImage", "resetScale2d"]]; // a drag zooms
  Plotly.newPlot(place, data, layout, options);
  for (const menu of menus) place.before(choice(place, menu));
}

// Plotly's menus take a mouse only; the page's own lists take keys too.
function choice(place, menu) {
  const label = document.createElement("label"), list = document.createElement("select");
  label.className = "choice";
  label.append("Show ", list);
  for (const button of menu.buttons) {
    const option = document.createElement("option");
    option.innerHTML = button.label;
    list.append(option);
  }
  list.selectedIndex = menu.active ?? 0;
  list.onchange = () => Plotly.restyle(place, ...menu.buttons[list.selectedIndex].args);
  return label;
}

function bare(data, layout) {
  for (const trace of data) Object.assign(trace, { showscale: false, texttemplate: "" });
  for (const axis of ["xaxis", "yaxis"]) layout[axis] = { ...layout[axis], visible: false };
  Object.assign(layout, { title: {}, showlegend: false, height: 150 });
  layout.margin = { l: 4, r: 4, t: 4, b: 4 };
}

function narrow(data, layout) {
  const names = layout.showlegend ? data.map((trace) => trace.name ?? "") : [];
  const rows = Math.ceil(names.join("").length / 25 + names.length / 4);
  const bar = data.some((trace) => trace.colorbar) ? 50 : 0;
  layout.font = { size: 11 };
  const label = layout.xaxis.title;
  const words = label?.text?.replaceAll("<br>", " ");
  if (words) label.text = words.replace(/(.{28}\S*) (?=.{8})/g, "$1<br>");
  layout.height += 20 * rows + bar;
  layout.margin = { ...layout.margin, l: 50, r: 12, b: layout.margin.b + 20 * rows + bar };
  const below = { orientation: "h", yref: "container", y: 0, yanchor: "bottom", thickness: 10 };
  for (const trace of data.filter((trace) => trace.colorbar))
    trace.colorbar = { ...trace.colorbar, ...below };
}
