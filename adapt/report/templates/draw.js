(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var charts = Array.prototype.slice.call(document.querySelectorAll(".chart"));
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  var config = { displayModeBar: false, responsive: true, displaylogo: false };

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function isNarrow(element) { return element.clientWidth < 500; }

  function themed(figure, narrow) {
    var layout = JSON.parse(JSON.stringify(figure.layout));
    var axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), fixedrange: true };
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = { color: colour("--ink"), size: 12, family: "system-ui, 'DejaVu Sans', sans-serif" };
    layout.hoverlabel = { bgcolor: colour("--paper"), font: { color: colour("--ink") } };
    ["xaxis", "yaxis"].forEach(function (name) {
      layout[name] = Object.assign({}, axis, layout[name]);
      if (narrow && layout[name].tickfont) { layout[name].tickfont = { size: 9 }; }
    });
    return layout;
  }

  function data(figure, narrow) {
    return figure.data.map(function (trace) {
      if (trace.type !== "heatmap") { return trace; }
      var scale = dark.matches
        ? [[0, colour("--card")], [0.5, "#2a6f9e"], [1, "#7fd0ff"]]
        : [[0, "#ffffff"], [0.5, "#7db5dc"], [1, "#0b4a82"]];
      return Object.assign({}, trace, { colorscale: scale, showscale: !narrow });
    });
  }

  function draw(element) {
    var figure = figures[Number(element.dataset.figure)];
    if (!element.clientWidth) { return; }
    var narrow = isNarrow(element);
    Plotly.react(element, data(figure, narrow), themed(figure, narrow), config);
    element.dataset.drawn = dark.matches ? "dark" : "light";
  }

  function drawAll() { charts.forEach(draw); }

  dark.addEventListener("change", drawAll);
  document.querySelectorAll("details").forEach(function (details) {
    details.addEventListener("toggle", function () {
      details.querySelectorAll(".chart").forEach(draw);
    });
  });
  drawAll();
})();
