"use strict";
// Draws the report's interactive figures from the data inside the page. Names are set as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const labels = data.labels;
  const methodLabels = new Map(labels.methods.map((method) => [method.name, method]));
  const checkpointLabels = new Map(labels.checkpoints.map((checkpoint) => [checkpoint.name, checkpoint.label]));
  const get = (id) => document.getElementById(id);
  const distinct = (values) => [...new Set(values)];
  const show = (value) => (value === null ? "-" : String(value));
  const range = (low, high) => (low === null || high === null ? "-" : `${low} to ${high}`);
  const methodLabel = (name) => (methodLabels.has(name) ? methodLabels.get(name).label : name);
  const checkpointLabel = (name) => checkpointLabels.get(name) ?? name;
  const metricTitle = (name) => {
    const metric = labels.metrics[name];
    return metric.unit ? `${metric.label} (${metric.unit})` : metric.label;
  };

  // A knee in words: outside the levels it is only a bound, and by the rule `tolerance` two levels enclose it.
  function kneeText(knee) {
    if (knee.censored === "left") return `at most ${knee.gridHigh ?? knee.knee} %`;
    if (knee.censored === "right") return `at least ${knee.knee} %`;
    const enclosed = knee.gridLow !== null && knee.gridHigh !== null;
    return enclosed ? `${knee.knee} % (levels ${knee.gridLow} and ${knee.gridHigh} %)` : `${knee.knee} %`;
  }

  // --- charts: one element each, drawn anew only where the specification changes -----------------------------------

  class Chart {
    constructor(id) {
      this.element = get(id);
      this.busy = Promise.resolve();
      this.name = null;
      this.view = null;
    }

    draw(name, datasets, params) {
      this.busy = this.busy.then(() => this.redraw(name, datasets, params)).catch(fail);
      return this.busy;
    }

    async redraw(name, datasets, params) {
      if (this.name !== name) {
        if (this.view) this.view.finalize();
        const spec = structuredClone(data.specs[name]);
        spec.datasets = datasets;
        if ("height" in params) spec.height = params.height;
        for (const param of spec.params) if (param.name in params) param.value = params[param.name];
        const result = await window.vegaEmbed(this.element, spec, {
          mode: "vega-lite", ast: true, actions: false, renderer: "svg", defaultStyle: false,
          tooltip: { disableDefaultStyle: true },
        });
        this.view = result.view;
        this.name = name;
        return;
      }
      for (const [key, rows] of Object.entries(datasets)) this.view.data(key, rows);
      for (const [key, value] of Object.entries(params)) this.view.signal(key, value);
      await this.view.runAsync();
    }
  }

  function fail(error) {
    // The drawn figures stand in for what cannot be drawn here.
    document.documentElement.classList.remove("js");
    console.error(error);
  }

  // --- controls ----------------------------------------------------------------------------------------------------

  // Sets the options of a select; keeps the choice where it is still there.
  function options(select, values, text, preferred) {
    const before = select.value;
    select.replaceChildren(...values.map((value) => new Option(text(value), value)));
    const wanted = values.includes(before) ? before : values.includes(preferred) ? preferred : values[0];
    if (wanted !== undefined) select.value = wanted;
    return select.value;
  }

  function swatch(look) {
    const name = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(name, "svg");
    for (const [key, value] of Object.entries({ width: 34, height: 12, "aria-hidden": "true" })) svg.setAttribute(key, value);
    const line = document.createElementNS(name, "line");
    const looks = { x1: 0, x2: 34, y1: 6, y2: 6, stroke: look.colour, "stroke-width": 3, "stroke-dasharray": look.dash.join(" ") };
    for (const [key, value] of Object.entries(looks)) line.setAttribute(key, value);
    svg.append(line);
    return svg;
  }

  // --- performance over sparsity -----------------------------------------------------------------------------------

  const curveChart = new Chart("curve-chart");
  const hidden = new Set();
  // What lies near the dense model, by the unit of the metric.
  const near = {
    fraction: (dense) => [dense - 10, dense + 2],
    correlation: (dense) => [dense - 0.1, dense + 0.02],
    perplexity: (dense) => [dense * 0.9, dense * 1.5],
    nats: (dense) => [dense - 0.1, dense + 0.5],
  };

  function updateCurves(event) {
    const model = options(get("curve-model"), distinct(data.curves.map((c) => c.model)), String, data.first.model);
    const ofModel = data.curves.filter((c) => c.model === model);
    const task = options(get("curve-task"), distinct(ofModel.map((c) => c.task)), (t) => labels.tasks[t], data.first.task);
    const ofTask = ofModel.filter((c) => c.task === task);
    const steps = labels.checkpoints.map((c) => c.name).filter((name) => ofTask.some((c) => c.checkpoint === name));
    const checkpoint = options(get("curve-checkpoint"), steps, checkpointLabel, steps.at(-1));
    const here = ofTask.filter((c) => c.checkpoint === checkpoint);
    const rule = options(get("curve-rule"), Object.keys(labels.rules), (r) => labels.rules[r]);
    const metric = here[0].metric;
    const kind = labels.metrics[metric];
    if (event === undefined || ["curve-model", "curve-task"].includes(event.target.id)) get("curve-axis").value = "";
    const axes = kind.logarithmic ? ["logarithmic", "linear", "close-up"] : ["linear", "close-up"];
    const axis = options(get("curve-axis"), axes, (a) => (a === "close-up" ? "close-up of the dense value" : a));
    chooseMethods(here);
    const shown = here.filter((c) => !hidden.has(c.method));
    drawCurves(shown.length ? shown : [], here, rule, metric, axis);
  }

  function chooseMethods(here) {
    const order = labels.methods.map((m) => m.name).filter((name) => here.some((c) => c.method === name));
    const box = get("curve-methods");
    if (box.dataset.methods === order.join("\n")) return;
    box.dataset.methods = order.join("\n");
    box.replaceChildren(...order.map((name) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.type = "checkbox";
      input.checked = !hidden.has(name);
      input.value = name;
      input.addEventListener("change", (event) => {
        if (input.checked) hidden.delete(name); else hidden.add(name);
        updateCurves(event);
      });
      label.append(input, swatch(methodLabels.get(name)), methodLabel(name));
      return label;
    }));
  }

  function drawCurves(shown, here, rule, metric, axis) {
    const levels = shown.flatMap((c) => c.sparsity.map((sparsity, i) => ({
      model: c.model, checkpoint: c.checkpoint, task: c.task, method: c.method, sparsity, value: c.value[i],
      low: c.low[i] ?? c.value[i], high: c.high[i] ?? c.value[i],
      Method: methodLabel(c.method), Sparsity: `${sparsity} %`, Value: show(c.value[i]),
      Interval: range(c.low[i], c.high[i]), Seeds: String(c.seeds[i]), Predictions: String(c.n[i]),
      cells: [methodLabel(c.method), sparsity, show(c.value[i]), show(c.low[i]), show(c.high[i]), c.seeds[i], c.n[i]],
    })));
    const drawable = levels.filter((row) => row.value !== null && (axis !== "logarithmic" || row.low > 0));
    const knees = shown.flatMap((c) => c.knees.filter((k) => k.rule === rule && k.knee !== null && k.value !== null).map((k) => ({
      method: c.method, knee: k.knee, value: k.value, low: k.low ?? k.knee, high: k.high ?? k.knee,
      Method: methodLabel(c.method), Knee: kneeText(k), Interval: range(k.low, k.high), Rule: labels.rules[rule],
    })));
    const dense = here[0].sparsity[0] === 0 ? here[0].value[0] : null;
    const [low, high] = dense === null ? [0, 1] : near[labels.metrics[metric].kind](dense);
    const last = Math.max(...here.flatMap((c) => c.sparsity));
    curveChart.draw(
      `curves ${axis}`,
      { levels: drawable, knees, dense: dense === null ? [] : [{ value: dense }] },
      { last, low, high, heading: `${metricTitle(metric)}, ${axis === "close-up" ? "near the dense model" : `${axis} axis`}` },
    );
    const missing = shown.flatMap((c) => c.knees.filter((k) => k.rule === rule && k.knee === null)
      .map((k) => `${methodLabel(c.method)} (${k.flags})`));
    const none = missing.length ? ` No knee by this rule: ${missing.join(", ")}.` : "";
    get("curve-status").textContent = `${shown.length} of ${here.length} methods, ${levels.length} values shown.${none}`;
    fillLevels(levels, metric);
  }

  function fillLevels(levels, metric) {
    const names = ["Method", "Sparsity (%)", metricTitle(metric), "Interval from", "to", "Seeds", "Predictions"];
    const numeric = (i) => i > 0;
    const head = document.createElement("tr");
    head.append(...names.map((name, i) => cell("th", name, numeric(i))));
    for (const element of head.children) element.scope = "col";
    get("levels").tHead.replaceChildren(head);
    get("levels").tBodies[0].replaceChildren(...levels.map((row) => {
      const line = document.createElement("tr");
      line.dataset.of = JSON.stringify([row.model, checkpointLabel(row.checkpoint), labels.tasks[row.task]]);
      line.append(...row.cells.map((value, i) => cell("td", String(value), numeric(i))));
      return line;
    }));
  }

  function cell(tag, text, numeric) {
    const element = document.createElement(tag);
    element.textContent = text;
    if (numeric) element.className = "number";
    return element;
  }

  // --- maps of matrices --------------------------------------------------------------------------------------------

  const mapChart = new Chart("map-chart");

  function updateMap() {
    const masks = data.maps.masks;
    const model = options(get("map-model"), distinct(masks.map((m) => m.model)), String, data.first.model);
    const ofModel = masks.filter((m) => m.model === model);
    const steps = labels.checkpoints.map((c) => c.name).filter((name) => ofModel.some((m) => m.checkpoint === name));
    const checkpoint = options(get("map-checkpoint"), steps, checkpointLabel, steps.at(-1));
    const here = ofModel.filter((m) => m.checkpoint === checkpoint);
    const method = options(get("map-method"), distinct(here.map((m) => m.method)), methodLabel, data.first.method);
    const levels = here.filter((m) => m.method === method).sort((one, other) => one.level - other.level);
    const slider = get("map-level");
    const key = [model, checkpoint, method].join("\n");
    if (slider.dataset.of !== key) {
      slider.dataset.of = key;
      slider.max = levels.length - 1;
      // The highest level within the knee by the headline's rule, or else the lowest.
      const curve = data.curves.find((c) => c.model === model && c.checkpoint === checkpoint && c.method === method);
      const knee = curve?.knees[0]?.knee ?? 0;
      slider.value = Math.max(0, levels.findLastIndex((m) => m.level <= knee));
    }
    const mask = levels[Number(slider.value)];
    const text = `${mask.level} % of the prunable weights`;
    get("map-level-text").textContent = text;
    slider.setAttribute("aria-valuetext", text);
    const places = data.maps.matrices[model];
    const cells = mask.shares.map((share, i) => ({
      kind: places.kind[i], block: places.block[i], share: share === null ? null : share / 10,
      Matrix: places.kind[i], Block: String(places.block[i]), Removed: share === null ? "-" : `${share / 10} %`,
    }));
    const shares = cells.map((c) => c.share).filter((share) => share !== null);
    let [low, high] = [Math.min(...shares), Math.max(...shares)];
    // Rounding of the counts is not a pattern: a scale of one point at least does not blow it up.
    if (high - low < 1) [low, high] = [Math.max(0, (low + high) / 2 - 0.5), Math.min(100, (low + high) / 2 + 0.5)];
    mapChart.draw("map", { cells }, { low, high, height: 22 * distinct(places.kind).length });
  }

  // --- pre-training ------------------------------------------------------------------------------------------------

  const stepOf = new Map(labels.checkpoints.map((checkpoint) => [checkpoint.name, checkpoint.step]));

  // Ticks of an axis that is logarithmic from the first step on: 0, that step, powers of ten and the last step.
  function stepTicks(steps) {
    const last = Math.max(...steps);
    const first = Math.min(...steps.filter((x) => x > 0), Infinity);
    if (!Number.isFinite(first)) return { first: 1, ticks: [0] };
    const powers = Array.from({ length: 12 }, (_, i) => 10 ** i).filter((x) => x > 1.5 * first && 1.5 * x < last);
    return { first, ticks: distinct([0, first, ...powers, last]) };
  }

  function updateEmergence() {
    const stepped = data.curves.filter((c) => stepOf.get(c.checkpoint) !== null);
    const place = (c) => JSON.stringify([c.model, c.task]);
    const seen = new Map();
    for (const c of stepped) seen.set(place(c), (seen.get(place(c)) ?? new Set()).add(c.checkpoint));
    const courses = stepped.filter((c) => seen.get(place(c)).size > 1);
    const model = options(get("emergence-model"), distinct(courses.map((c) => c.model)), String);
    const ofModel = courses.filter((c) => c.model === model);
    const task = options(get("emergence-task"), distinct(ofModel.map((c) => c.task)), (t) => labels.tasks[t]);
    const rule = options(get("emergence-rule"), Object.keys(labels.rules), (r) => labels.rules[r]);
    const steps = ofModel.filter((c) => c.task === task).flatMap((c) => c.knees.filter((k) => k.rule === rule && k.knee !== null).map((k) => ({
      method: c.method, x: stepOf.get(c.checkpoint), knee: k.knee, low: k.low ?? k.knee, high: k.high ?? k.knee,
      Method: methodLabel(c.method), Checkpoint: checkpointLabel(c.checkpoint), Knee: kneeText(k), Interval: range(k.low, k.high),
    })));
    const charts = updateEmergence.chart ??= new Chart("emergence-chart");
    charts.draw("emergence", { steps }, { ...stepTicks(steps.map((row) => row.x)), heading: `Knee by ${labels.rules[rule]} (% of prunable weights)` });
  }

  function updateWeights() {
    const model = options(get("weights-model"), data.weights.map((w) => w.model), String);
    const statistic = options(get("weights-statistic"), Object.keys(labels.statistics), (s) => labels.statistics[s]);
    const mine = data.weights.find((w) => w.model === model);
    const text = (x) => (mine.along === "step" ? `step ${x}` : `block ${x}`);
    const lines = mine.lines.flatMap((line) => line.x.map((x, i) => ({
      kind: line.kind, x, value: line[statistic][i], Matrices: line.kind, At: text(x), Value: show(line[statistic][i]),
    }))).filter((row) => row.value !== null);
    const charts = updateWeights.chart ??= new Chart("weights-chart");
    const ticks = mine.along === "step" ? stepTicks(lines.map((row) => row.x)) : {};
    charts.draw(mine.along === "step" ? "weights" : "blocks", { lines: lines.filter((row) => row.kind !== labels.allMatrices), whole: lines.filter((row) => row.kind === labels.allMatrices) }, { ...ticks, heading: labels.statistics[statistic] });
  }

  // --- tables as CSV -----------------------------------------------------------------------------------------------

  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  // A spreadsheet would take a name that starts like this for a formula; numbers and ranges of them are left alone.
  const numeric = /^[-+\d.,;%\s]*(to[-+\d.,;%\s]*)*$/;
  const harmless = (text) => (/^[=+@-]/.test(text) && !numeric.test(text) ? `'${text}` : text);

  function cellText(element) {
    const copy = element.cloneNode(true);
    copy.querySelectorAll("br").forEach((end) => end.replaceWith("; "));
    return copy.textContent.trim().replaceAll("\u00a0", " ");
  }

  function tableText(table) {
    const lines = [...table.rows].map((row) => [...row.cells].map(cellText));
    if (table.id === "levels") {
      lines[0].unshift("Model", "Checkpoint", "Task");
      [...table.tBodies[0].rows].forEach((row, i) => lines[i + 1].unshift(...JSON.parse(row.dataset.of)));
    }
    return `${lines.map((line) => line.map((text) => quoted(harmless(text))).join(",")).join("\r\n")}\r\n`;
  }

  function download(event) {
    const name = event.target.dataset.table;
    const address = URL.createObjectURL(new Blob([tableText(get(name))], { type: "text/csv" }));
    const link = document.createElement("a");
    link.href = address;
    link.download = `${data.study}-${name}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  // --- start -------------------------------------------------------------------------------------------------------

  const parts = {
    curve: [updateCurves, data.curves.length > 0], map: [updateMap, data.maps.masks.length > 0],
    emergence: [updateEmergence, get("emergence-chart") !== null], weights: [updateWeights, get("weights-chart") !== null],
  };
  document.documentElement.classList.add("js");
  try {
    for (const [name, [update, there]] of Object.entries(parts)) {
      if (!there) continue;
      update();
      for (const element of document.querySelectorAll(`select[id^="${name}-"]`)) element.addEventListener("change", update);
    }
    get("map-level").addEventListener("input", updateMap);
    for (const button of document.querySelectorAll("button[data-table]")) button.addEventListener("click", download);
    // What is folded away would be missing on paper.
    window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
  } catch (error) {
    fail(error);
  }
})();
