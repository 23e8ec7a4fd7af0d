"use strict";
// Draws the record of a quantization or of searches. Text from files reaches the page by textContent alone.
(() => {
  const data = JSON.parse(document.getElementById("record").textContent);
  const page = document.getElementById("page");
  const COLOURS = {0: "#868e96", 1: "#a50f15", 2: "#c2410c", 3: "#8a6100", 4: "#2b7a3b", 5: "#0b7285", 6: "#1864ab", 7: "#3b5bdb", 8: "#5f3dc4"};
  const LINES = ["#1c7ed6", "#e8590c", "#2f9e44", "#ae3ec9", "#e03131", "#0c8599", "#f08c00", "#868e96"];
  const SPACE = "http://www.w3.org/2000/svg";

  function make(space, tag, attributes, children) {
    const made = space ? document.createElementNS(SPACE, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined) made.setAttribute(name, value);
    }
    for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) made.append(child);
    return made;
  }
  const el = (tag, attributes, ...children) => make(false, tag, attributes, children);
  const svg = (tag, attributes, ...children) => make(true, tag, attributes, children);
  const section = (title, ...children) => { const made = el("section", {}, el("h2", {}, title), ...children); page.append(made); return made; };
  const width = bits => Array.isArray(bits) ? Math.max(...bits) : bits;
  const colour = bits => COLOURS[width(bits)] || "#495057";
  const chip = bits => el("span", {class: "chip", style: `background:${colour(bits)}`}, Array.isArray(bits) ? `≤${width(bits)}` : `${bits}`);
  function number(x) {
    if (x === null || x === undefined || !isFinite(x)) return "–";
    const size = Math.abs(x);
    if (size >= 1e6) return Number(x.toPrecision(4)).toLocaleString("en");
    if (size >= 100) return Math.round(x).toLocaleString("en");
    return String(Number(x.toPrecision(3)));
  }
  const UNITS = {latency: "cycles", energy: "pJ", size: "bits of weights", bops: "bit operations", "average-bits": "bits"};
  const called = name => UNITS[name] ? `${name}, ${UNITS[name]}` : name;

  // ---- charts ---------------------------------------------------------------------------------------------------
  const drawn = [];
  function chart(place, spec) {
    const box = el("div", {class: "chart"});
    place.append(box);
    const draw = () => { box.replaceChildren(plot(Math.max(box.clientWidth, 200), spec())); };
    drawn.push(draw);
    requestAnimationFrame(draw);
    return draw;
  }
  function ticks(low, high, count) {
    const raw = (high - low) / count || 1, base = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(m => m * base).find(s => s >= raw) || raw;
    const found = [];
    for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-9; x += step) found.push(Number(x.toPrecision(12)));
    return found;
  }
  function range(values, padded) {
    let low = Infinity, high = -Infinity;
    for (const v of values) if (v !== null && isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v); }
    if (low > high) return [0, 1];
    if (low === high) return [low - Math.abs(low || 1) * .1, high + Math.abs(high || 1) * .1];
    const pad = padded ? (high - low) * .04 : 0;
    return [low - pad, high + pad];
  }
  function plot(w, spec) {
    const h = spec.height || 280, left = 58, right = 12, top = 10, bottom = 40;
    const points = spec.series.flatMap(s => s.points);
    const [x0, x1] = spec.x || range([...points.map(p => p[0]), ...(spec.marks || []).map(m => m[0])], true);
    const [y0, y1] = spec.y || range(points.map(p => p[1]), true);
    const X = x => left + (x - x0) / (x1 - x0 || 1) * (w - left - right), Y = y => h - bottom - (y - y0) / (y1 - y0 || 1) * (h - top - bottom);
    const made = svg("svg", {width: w, height: h, viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": spec.label});
    for (const y of ticks(y0, y1, 5)) made.append(svg("line", {x1: left, x2: w - right, y1: Y(y), y2: Y(y), class: "axis"}), svg("text", {x: left - 6, y: Y(y) + 4, "text-anchor": "end", class: "tick"}, number(y)));
    for (const x of ticks(x0, x1, Math.max(Math.floor(w / 110), 2))) made.append(svg("text", {x: X(x), y: h - bottom + 16, "text-anchor": "middle", class: "tick"}, number(x)));
    made.append(svg("text", {x: (left + w - right) / 2, y: h - 6, "text-anchor": "middle", class: "tick"}, spec.xlabel));
    for (const [x, text] of spec.marks || []) if (x >= x0 && x <= x1) made.append(svg("line", {x1: X(x), x2: X(x), y1: top, y2: h - bottom, stroke: "var(--warm)", "stroke-dasharray": "5 4"}), svg("text", {x: X(x) + (X(x) > w - 80 ? -4 : 4), y: top + 11, class: "tick", "text-anchor": X(x) > w - 80 ? "end" : "start"}, text));
    for (const s of spec.series) {
      if (s.line) {
        let path = "";
        s.points.forEach(([x, y], i) => { path += i ? (s.stairs ? `H${X(x).toFixed(1)}V${Y(y).toFixed(1)}` : `L${X(x).toFixed(1)} ${Y(y).toFixed(1)}`) : `M${X(x).toFixed(1)} ${Y(y).toFixed(1)}`; });
        made.append(svg("path", {d: path, fill: "none", stroke: s.colour, "stroke-width": 2}));
      } else for (const [x, y, text] of s.points) {
        if (!isFinite(x) || !isFinite(y)) continue;
        made.append(svg("circle", {cx: X(x), cy: Y(y), r: s.radius || 3.5, fill: s.colour, "fill-opacity": s.radius ? 1 : .65}, text ? svg("title", {}, text) : null));
      }
    }
    return made;
  }
  const key = entries => el("div", {class: "key"}, entries.map(([c, text]) => el("span", {}, el("span", {style: `color:${c}`, "aria-hidden": "true"}, "■ "), text)));
  let late;
  addEventListener("resize", () => { clearTimeout(late); late = setTimeout(() => drawn.forEach(draw => draw()), 150); });

  // ---- what is shown now: the policy that was written, or a stop of the slider -------------------------------------
  const quantizers = data.quantizers, listeners = [];
  let shown = Object.fromEntries(Object.entries(quantizers).map(([name, q]) => [name, q.bits]));
  function show(policy) { shown = policy; listeners.forEach(tell => tell()); }
  function whole(decided) {
    return Object.fromEntries(Object.entries(quantizers).map(([name, q]) => {
      const option = decided[q.decision];
      if (option === undefined) return [name, q.bits];
      return [name, q.widths[String(option)] ?? option];
    }));
  }

  function heading() {
    page.append(el("h1", {}, data.title));
    if (data.lead) page.append(el("p", {}, data.lead));
    if (data.certificate) page.append(el("p", {class: "note", id: "certificate"}, data.certificate));
    if (data.table.length) {
      const [head, ...rows] = data.table;
      page.append(el("section", {class: "scroll"}, el("table", {}, el("tr", {}, head.map(c => el("th", {}, c))), rows.map((row, i) => el("tr", {class: i === rows.length - 1 ? "last" : null}, row.map(c => el("td", {}, c)))))));
    }
  }

  function slider() {
    const front = data.front;
    if (!front) return;
    const at = front.names.indexOf(front.cost), limit = data.limits[front.cost], share = data.reference;
    const chosen = front.points.findIndex(p => front.decisions.every((d, i) => JSON.stringify(p[2][i]) === JSON.stringify(front.chosen[d])));
    const within = front.points.reduce((best, p, i) => limit === undefined || p[1][at] <= limit ? i : best, 0);
    const start = chosen >= 0 ? chosen : within;
    const input = el("input", {type: "range", min: 0, max: front.points.length - 1, value: start, id: "budget", "aria-label": `budget of ${front.cost}`});
    const figures = el("div", {class: "figures", id: "figures", "aria-live": "polite"});
    const bits = el("div", {class: "row", id: "front-bits"});
    const what = front.minimised ? "predicted loss" : "measured value";
    const thinned = front.found > front.points.length ? ` (${front.points.length} of its ${front.found} points)` : "";
    const made = section("Trade the budget", el("div", {class: "card"},
      el("p", {class: "note"}, front.exact ? `Drag the budget. Every stop is proven: no policy with this ${front.cost} has a smaller predicted loss${thinned}.` : `Drag the budget. The stops are the best policies that were ${front.minimised ? "found" : "measured"}; others may be better${thinned}.`),
      input, figures, bits,
      el("div", {class: "row"}, el("button", {id: "save", onclick: save}, "Save this policy"), el("button", {id: "back", onclick: () => { input.value = start; move(); }}, chosen >= 0 ? "Back to the written one" : "Back to the budget"))));
    const redraw = chart(made.querySelector(".card"), () => ({
      label: `${what} against ${front.cost}`, xlabel: called(front.cost), height: 220,
      marks: limit === undefined ? [] : [[limit, "budget"]],
      series: [{line: true, stairs: true, colour: LINES[0], points: front.points.map(p => [p[1][at], p[0]])},
        {radius: 6, colour: "var(--warm)", points: [[front.points[input.value][1][at], front.points[input.value][0]]]}],
    }));
    function decided() { return Object.fromEntries(front.decisions.map((d, i) => [d, front.points[input.value][2][i]])); }
    function move() {
      const [value, costs] = front.points[input.value];
      const entries = front.names.map((name, i) => [called(name) + (name === front.cost && share ? ` (${(costs[i] / share).toFixed(3)}x)` : ""), number(costs[i])]);
      figures.replaceChildren(...[[what, number(value)], ...entries].map(([text, figure]) => el("div", {}, el("b", {}, figure), el("span", {}, text))));
      const counts = {};
      for (const b of Object.values(decided())) counts[width(b)] = (counts[width(b)] || 0) + 1;
      bits.replaceChildren(...Object.keys(counts).sort((a, b) => b - a).map(b => el("span", {}, `${counts[b]} at `, chip(Number(b)))));
      redraw();
      show(Number(input.value) === chosen ? Object.fromEntries(Object.entries(quantizers).map(([n, q]) => [n, q.bits])) : whole(decided()));
    }
    function save() {
      const text = JSON.stringify(Object.keys(quantizers).length ? shown : decided(), null, 1);
      const link = el("a", {href: URL.createObjectURL(new Blob([text], {type: "application/json"})), download: "policy.json"});
      document.body.append(link); link.click(); link.remove();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }
    input.addEventListener("input", move);
    move();
  }

  // ---- the network: one node a row, residual edges as arcs on the left ---------------------------------------------
  function network() {
    const steps = data.steps;
    if (!steps.length) return;
    const RISE = 38, lanes = [];
    const edges = steps.flatMap((step, to) => step.reads.map((from, i) => ({from, to, by: step.quantized[i]})));
    for (const edge of edges.filter(e => e.from >= 0 && e.to - e.from > 1).sort((a, b) => (a.to - a.from) - (b.to - b.from))) {
      let lane = lanes.findIndex(taken => taken.every(o => edge.to <= o.from || edge.from >= o.to));
      if (lane < 0) { lane = lanes.length; lanes.push([]); }
      lanes[lane].push(edge); edge.lane = lane;
    }
    const gap = Math.min(12, 90 / Math.max(lanes.length, 1)), left = 24 + lanes.length * gap, across = left + 384;
    const net = el("div", {class: "net", id: "network"}), panel = el("div", {class: "card panel", id: "panel"}, el("p", {class: "note"}, "Click a node."));
    const zoom = el("input", {type: "range", min: .4, max: 1.6, step: .1, value: 1, "aria-label": "zoom of the network", style: "max-width:9rem"});
    const legend = el("div", {class: "key", id: "legend"});
    let chosen = -1;
    section("The network and its bits", el("div", {class: "row"}, legend, el("label", {class: "note zoom"}, "zoom", zoom)), el("div", {class: "two"}, net, panel));
    const middle = i => i * RISE + 24;
    function draw() {
      const widths = [...new Set(Object.values(shown).map(width))].sort((a, b) => a - b);
      legend.replaceChildren(...widths.map(b => el("span", {}, chip(b), ` bit${b === 1 ? "" : "s"}`)), el("span", {}, "grey lines: float"));
      const h = steps.length * RISE + 16, scale = Number(zoom.value);
      const made = svg("svg", {width: across * scale, height: h * scale, viewBox: `0 0 ${across} ${h}`});
      for (const e of edges) {
        const stroke = e.by ? colour(shown[e.by]) : "var(--before)", y1 = middle(e.from) + 15, y2 = middle(e.to) - 15;
        const d = e.from < 0 ? (e.to === 0 ? `M${left + 16} ${y2 - 8}V${y2}` : null) : e.lane === undefined ? `M${left + 16} ${y1}V${y2}`
          : `M${left} ${middle(e.from)}C${left - 12 - e.lane * gap} ${middle(e.from)} ${left - 12 - e.lane * gap} ${middle(e.from)} ${left - 12 - e.lane * gap} ${middle(e.from) + 12}V${middle(e.to) - 12}C${left - 12 - e.lane * gap} ${middle(e.to)} ${left - 12 - e.lane * gap} ${middle(e.to)} ${left} ${middle(e.to)}`;
        if (d) made.append(svg("path", {d, class: "edge", stroke}, svg("title", {}, e.by ? `${e.by}: ${JSON.stringify(shown[e.by])} bits` : "float")));
      }
      steps.forEach((step, i) => {
        const data_bits = step.quantized.find(Boolean), bits = [[data_bits, 6], [step.weight, 42]];
        made.append(svg("g", {class: i === chosen ? "step on" : "step", tabindex: 0, role: "button", "data-step": i, onclick: () => pick(i), onkeydown: event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(i); } }},
          svg("rect", {class: "box", x: left, y: middle(i) - 15, width: 374, height: 30, rx: 6}),
          svg("text", {x: left + 82, y: middle(i) - 1}, step.op, svg("title", {}, step.name)),
          svg("text", {x: left + 82, y: middle(i) + 11, class: "soft"}, shortened(step.name, 22) + (step.shape ? `  ${step.shape}` : "")),
          bits.filter(([name]) => name && shown[name] !== undefined).map(([name, x]) => [svg("rect", {x: left + x, y: middle(i) - 9, width: 30, height: 18, rx: 4, style: `fill:${colour(shown[name])};stroke:none`}), svg("text", {x: left + x + 15, y: middle(i) + 4, class: "bits"}, `${x === 6 ? "A" : "W"}${width(shown[name])}`)])));
      });
      net.replaceChildren(made);
      if (chosen >= 0) fill();
    }
    function pick(i) { chosen = i; draw(); }
    function fill() {
      const step = steps[chosen], layer = data.layers.find(l => of_layer(step, l));
      const names = [...new Set([...step.quantized.filter(Boolean), step.weight].filter(Boolean))];
      const parts = [el("h2", {}, step.op), el("p", {}, step.name), step.shape ? el("p", {class: "note"}, `result ${step.shape}`) : null];
      if (!names.length) parts.push(el("p", {class: "note"}, "Nothing is quantized at this node: it computes on what it is given."));
      for (const name of names) parts.push(facts(name));
      if (data.noise[step.name] !== undefined) parts.push(el("p", {class: "note"}, `signal to noise of its result: ${data.noise[step.name].toFixed(1)} dB`));
      if (layer) parts.push(costs(layer, shown[step.quantized.find(Boolean)], shown[step.weight]));
      panel.replaceChildren(...parts.filter(Boolean));
    }
    zoom.addEventListener("input", draw);
    listeners.push(draw);
    draw();
  }
  const of_layer = (step, layer) => step.weight ? step.weight === `${layer.name}.weight` || step.name === layer.name : step.name === layer.name;
  const shortened = (text, most) => text.length > most ? `${text.slice(0, 8)}…${text.slice(9 - most)}` : text;
  function facts(name) {
    const q = quantizers[name];
    if (!q) return null;
    const found = [["bits", el("span", {}, chip(shown[name]), JSON.stringify(shown[name]) === JSON.stringify(q.bits) ? "" : ` (written: ${JSON.stringify(q.bits)})`)]];
    if (q.scheme) found.push(["scheme", q.scheme]);
    const at = q.ranges[String(width(shown[name]))];
    if (at) found.push(["range", `${number(at[0])} to ${number(at[1])}`]);
    if (q.decision && q.decision !== name) found.push(["decided by", q.decision]);
    if (!q.decision) found.push(["decided by", "nothing: fixed"]);
    const moved = Object.entries(q.sensitivity);
    if (moved.length) found.push(["loss at", moved.map(([b, v]) => `${b} bits ${number(v)}`).join(", ")]);
    if (q.why) found.push(["why", q.why]);
    return el("div", {}, el("p", {}, el("b", {}, name)), el("dl", {}, found.map(([t, d]) => [el("dt", {}, t), el("dd", {}, d)])), q.histogram ? bars(q.histogram, at) : null);
  }
  function bars(histogram, at) {
    const w = 260, h = 60, most = Math.max(...histogram.counts), span = histogram.high - histogram.low || 1;
    const each = w / histogram.counts.length, X = x => (x - histogram.low) / span * w;
    const made = svg("svg", {width: w, height: h + 14, viewBox: `0 0 ${w} ${h + 14}`, role: "img", "aria-label": "histogram of the weight"});
    histogram.counts.forEach((count, i) => { const tall = Math.sqrt(count / most) * h; made.append(svg("rect", {x: i * each, y: h - tall, width: Math.max(each - 1, 1), height: tall, fill: "var(--accent)"}, svg("title", {}, `${count.toLocaleString("en")} values`))); });
    for (const x of at || []) made.append(svg("line", {x1: X(x), x2: X(x), y1: 0, y2: h, stroke: "var(--warm)", "stroke-dasharray": "4 3"}));
    made.append(svg("text", {x: 0, y: h + 12, class: "tick"}, number(histogram.low)), svg("text", {x: w, y: h + 12, "text-anchor": "end", class: "tick"}, number(histogram.high)));
    return el("div", {}, made, el("p", {class: "note"}, "values of the weight (root scale); dashed: the clipping range"));
  }
  function costs(layer, activation, weight) {
    if (!layer.choices.length) return null;
    return el("div", {class: "scroll"}, el("p", {}, el("b", {}, "cycles at each legal pair")), el("table", {}, el("tr", {}, ["A", "W", "cycles", "bound by"].map(t => el("th", {}, t))),
      layer.choices.map(([a, w, cycles, by]) => el("tr", {class: a === width(activation) && w === width(weight) ? "last" : null}, [chip(a), chip(w), number(cycles), by].map(c => el("td", {}, c))))));
  }

  // ---- layers ---------------------------------------------------------------------------------------------------
  function layers() {
    if (!data.layers.length) return;
    const step_of = new Map(data.layers.map(l => [l, data.steps.find(s => of_layer(s, l)) || {quantized: []}]));
    const rows = el("div", {class: "bars", id: "bits"});
    section("Bits per layer", key([["#868e96", "upper bar: activations, lower bar: weights; the colour is the width"]]), rows);
    function draw() {
      rows.replaceChildren(...data.layers.flatMap(layer => {
        const step = step_of.get(layer);
        const a = width(shown[step.quantized.find(Boolean)] ?? layer.activation_bits), w = width(shown[step.weight] ?? layer.weight_bits);
        const most = Math.max(8, a, w), bar = b => el("div", {class: "bar"}, el("i", {style: `width:${100 * b / most}%;background:${colour(b)}`}));
        return [el("div", {class: "name", title: layer.name}, layer.name), el("div", {}, bar(a), bar(w), el("span", {class: "value"}, `A ${a} · W ${w} bits`))];
      }));
    }
    listeners.push(draw); draw();

    const kinds = [["latency, cycles", l => [l.reference_cycles, l.cycles]], ["energy, pJ", l => l.energy], ["bytes moved", l => l.bytes_moved]].filter(([, of]) => data.layers.some(l => of(l)[0] > 0));
    if (kinds.length) {
      const select = el("select", {"aria-label": "cost", onchange: fall}, kinds.map(([text], i) => el("option", {value: i}, text)));
      const list = el("div", {class: "bars", id: "costs"}), sum = el("p", {class: "note"});
      section("Cost per layer before and after", el("div", {class: "row"}, kinds.length > 1 ? select : el("span", {}, kinds[0][0]), key([["var(--before)", "widest bits"], ["var(--accent)", "as written"]])), sum, list);
      function fall() {
        const of = kinds[select.value || 0][1], most = Math.max(...data.layers.map(l => of(l)[0]), 1e-12);
        const totals = data.layers.reduce((t, l) => [t[0] + of(l)[0], t[1] + of(l)[1]], [0, 0]);
        sum.textContent = `${number(totals[0])} before, ${number(totals[1])} after (${(totals[1] / totals[0]).toFixed(3)}x), over the layers`;
        list.replaceChildren(...data.layers.flatMap(l => {
          const [before, after] = of(l), bar = (x, c) => el("div", {class: "bar"}, el("i", {style: `width:${Math.max(100 * x / most, .3)}%;background:${c}`}));
          return [el("div", {class: "name", title: l.name}, l.name), el("div", {}, bar(before, "var(--before)"), bar(after, "var(--accent)"), el("span", {class: "value"}, `${number(before)} → ${number(after)}` + (select.value > 0 ? "" : `, bound by ${l.bound_by}`)))];
        }));
      }
      fall();
    }
  }
  function noise() {
    const places = Object.fromEntries(data.steps.map((s, i) => [s.name, i]));
    const noisy = Object.entries(data.noise).filter(([name]) => name in places).sort((a, b) => places[a[0]] - places[b[0]]);
    if (!noisy.length) return;
    const most = Math.max(...noisy.map(([, decibels]) => decibels), 1);
    section("Signal to noise per layer", el("p", {class: "note"}, "Of each quantized result in the written file against the float network, in decibels: longer is better."),
      el("div", {class: "bars", id: "noise"}, noisy.map(([name, decibels]) => [el("div", {class: "name", title: name}, name), el("div", {}, el("div", {class: "bar"}, el("i", {style: `width:${Math.max(100 * decibels / most, .5)}%;background:var(--accent)`})), el("span", {class: "value"}, `${decibels.toFixed(1)} dB`))])));
  }

  // ---- searches ---------------------------------------------------------------------------------------------------
  function searches() {
    if (!data.searches.some(s => s.tried.length > 1)) return;
    const names = () => [...new Set(data.searches.flatMap(s => s.names))];
    const word = () => data.searches.some(s => s.minimised) ? "predicted loss" : "accuracy";
    const select = el("select", {"aria-label": "cost on the horizontal axis"}, names().map(n => el("option", {value: n}, called(n))));
    const first = data.front ? data.front.cost : data.cost || Object.keys(data.limits)[0];
    if (first && names().includes(first)) select.value = first;
    const place = section("Every policy tried", el("div", {class: "row"}, el("span", {}, `${word()} against`), select), key(data.searches.map((s, i) => [LINES[i % 8], `${s.label}: ${s.tried.length} policies, line: its front`])));
    const redraw = chart(place, () => {
      const cost = select.value, limit = data.limits[cost];
      return {label: `${word()} against ${cost} of every policy tried`, xlabel: called(cost), marks: limit === undefined ? [] : [[limit, "budget"]],
        series: data.searches.flatMap((s, i) => {
          const at = s.names.indexOf(cost);
          if (at < 0) return [];
          const front = s.front.map(([v, c]) => [c[at], v]).filter(p => p[0] !== null && p[0] !== undefined).sort((a, b) => a[0] - b[0]);
          return [{colour: LINES[i % 8], points: s.tried.map(([n, v, c, text]) => [c[at], v, `${n}: ${number(v)}\n${text}`])}, {colour: LINES[i % 8], line: true, stairs: true, points: front}];
        })};
    });
    select.addEventListener("change", redraw);
    const measured = data.searches.filter(s => !s.minimised && s.tried.length > 1);
    if (measured.length) {
      const over = section("Value over episodes", key(data.searches.map((s, i) => [LINES[i % 8], `${s.label}; line: best so far`])));
      chart(over, () => ({label: "value over episodes", xlabel: "episode", series: data.searches.filter(s => !s.minimised).flatMap((s, i) => {
        let best = -Infinity;
        return [{colour: LINES[i % 8], points: s.tried.map(([n, v]) => [n, v])}, {colour: LINES[i % 8], line: true, stairs: true, points: s.tried.map(([n, v]) => [n, best = Math.max(best, v)])}];
      })}));
    }
    if (data.probabilities.length && Object.keys(data.options).length) {
      const grid = el("div", {class: "grid"}), labels = [...new Set(Object.values(data.options).flat())];
      section("Probability of every option over the episodes", key(labels.map((l, i) => [LINES[i % 8], l])), grid);
      Object.entries(data.options).forEach(([decision, options], place) => {
        const cell = el("div", {}, el("p", {class: "note"}, decision));
        grid.append(cell);
        chart(cell, () => ({label: `probabilities of ${decision}`, xlabel: "episode", height: 150, y: [0, 1],
          series: options.map((l, o) => ({line: true, colour: LINES[labels.indexOf(l) % 8], points: data.probabilities.map((episode, n) => [n + 1, (episode[place] || [])[o] ?? 0])}))}));
      });
    }
  }

  function provenance() {
    if (data.files.length) section("Files", el("dl", {}, data.files.map(([what, name, link, size]) => [el("dt", {}, what), el("dd", {}, el("a", {href: encodeURI(link)}, name), ` ${size}`)])));
    if (data.facts.length) section("Where it comes from", el("dl", {id: "facts"}, data.facts.map(([t, d]) => [el("dt", {}, t), el("dd", {}, d)])));
  }

  heading(); slider(); network(); layers(); noise(); searches(); provenance();
})();
