// The viewer of a long recording: an overview of the whole and one page of traces.
// Data are bytes: uint32 length of the header, the header (JSON), for each page rows of int16
// (row, column, per), uint8 levels of the probability trend. See report/ieeg_viewer.py.
// While a page is read the next one is fetched, so that turning it needs no server.
// Names are drawn or set as text, never read as HTML.

const STATES = new WeakMap();
const MM = 96 / 25.4;
const MISSING = -32768;
const NOT_EVALUATED = 255;
const LABELS = 84;
const AXIS = 22;
const OVERVIEW = { marks: 14, trend: 46, events: 16, axis: 16 };
const OVERVIEW_HEIGHT = 92;

export default function ieeg({ data, parentElement, setTriggerValue }) {
  let state = STATES.get(parentElement);
  if (!state) {
    state = build(parentElement);
    STATES.set(parentElement, state);
  }
  state.send = (value) => setTriggerValue("go", value);
  if (state.bytes === data) return;
  state.bytes = data;
  const received = read(data);
  const { meta } = received;
  // Pages of other settings are of no use any more. A page that was asked for ahead waits.
  if (state.meta?.key !== meta.key) state.pages.clear();
  for (const page of received.pages) keep(state, page);
  const isJump = !state.meta || state.meta.jump !== meta.jump;
  const isChange = state.meta?.key !== meta.key;
  state.meta = meta;
  const isAnswer = state.isWaiting && meta.answer === state.number;
  if (isAnswer) state.isWaiting = false;
  if (isJump || (isChange && (state.asked === null || (isAnswer && !state.next)))) {
    state.at = meta.begin;
    state.asked = null;
  }
  const isFirst = !state.page;
  const isShown = turn(state);
  if (isJump && !isFirst) state.overview.scrollIntoView({ block: "nearest" });
  if (!isShown && !state.isWaiting && !state.next) {
    // Answered, but without the page: the run that drew it was cut short.
    const wanted = state.asked ?? state.at;
    state.next = { begin: wanted, need: wanted, columns: columns(state),
      first_row: meta.first_row };
  }
  askNext(state);
}

// One request at a time: one that overtakes another, or the run that draws the page, can be
// lost on its way. What was asked for last waits; what is not answered is sent again.
function ask(state, request) {
  state.next = request;
  if (!state.isWaiting) askNext(state);
}

function askNext(state) {
  const { next } = state;
  if (!next || state.isWaiting) return;
  state.next = null;
  const isHere = next.need !== null && state.pages.has(place(next.need));
  const isPlain = !("until" in next) && next.first_row === state.meta.first_row;
  if (isPlain && isHere && next.columns === state.meta.columns) return;
  state.number += 1;
  state.isWaiting = true;
  post(state, { ...next, number: state.number }, 2500);
}

function post(state, request, patience) {
  clearTimeout(state.watch);
  state.watch = setTimeout(() => {
    if (!state.isWaiting || request.number !== state.number) return;
    if (state.next) {
      state.isWaiting = false;
      askNext(state);
    } else post(state, request, Math.min(2 * patience, 20000));
  }, patience);
  state.send({ ...request, sent: performance.now() });
}

function place(begin) { return begin.toFixed(3); }

function keep(state, page) {
  state.pages.delete(place(page.begin));
  state.pages.set(place(page.begin), page);
  while (state.pages.size > 12) state.pages.delete(state.pages.keys().next().value);
}

// Show the page that is wanted, if it is here, and ask for the one after it.
function turn(state) {
  const wanted = state.asked ?? state.at;
  const found = state.pages.get(place(wanted));
  if (!found) {
    if (state.page) showOverview(state);
    return false;
  }
  const isNew = state.page?.place !== place(wanted) || state.page?.key !== state.meta.key;
  const { begin: _, answer: __, ...rest } = state.meta;
  const look = JSON.stringify(rest);
  const isSame = !isNew && look === state.look;
  state.look = look;
  state.page = Object.assign(found, state.meta, { begin: wanted, place: place(wanted) });
  state.direction = isNew ? Math.sign(wanted - state.at) || state.direction : state.direction;
  state.at = wanted;
  state.asked = null;
  if (!isSame) {
    const start = performance.now();
    show(state);
    if (isNew) state.say(spoken(state.page));
    // What was drawn, how long it took and how many bytes came: for those who measure.
    Object.assign(state.stage.dataset, { drawn: place(wanted), bytes: state.bytes.byteLength,
      milliseconds: Math.round(performance.now() - start) });
  }
  clearTimeout(state.timer);
  state.timer = setTimeout(() => ahead(state), 30);
  return true;
}

function ahead(state) {
  const { page } = state;
  const next = clamp(page, state.at + state.direction * page.length);
  const width = columns(state);
  if (width !== page.columns) {
    ask(state, { begin: state.at, need: state.at, columns: width, first_row: page.first_row });
  } else if (!state.pages.has(place(next))) {
    ask(state, { begin: state.at, need: next, columns: width, first_row: page.first_row });
  } else if (place(state.meta.begin) !== place(state.at)) {
    ask(state, { begin: state.at, need: null, columns: width, first_row: page.first_row });
  }
}

function clamp(page, begin) {
  return Math.min(Math.max(0, begin), Math.max(0, page.duration - page.length));
}

function read(data) {
  const bytes = data instanceof Uint8Array ? data : new Uint8Array(data);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(0, true);
  const meta = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const { pages } = meta;
  delete meta.pages;
  let at = 4 + length;
  for (const page of pages) {
    const size = 2 * page.rows.length * page.n_columns * page.per;
    page.values = new Int16Array(bytes.slice(at, at + size).buffer);
    page.base = page.rows.map((row, k) => baseline(page, k));
    at += size;
  }
  meta.trend = bytes.slice(at, at + meta.n_trend);
  return { meta, pages };
}

// The middle of the page: each trace is drawn around it.
function baseline(page, k) {
  const size = page.n_columns * page.per;
  let sum = 0, n = 0;
  for (let i = k * size; i < (k + 1) * size; i += 1) {
    if (page.values[i] !== MISSING) { sum += page.values[i]; n += 1; }
  }
  return n ? sum / n : 0;
}

function element(tag, attributes = {}, words = "") {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = words;
  return node;
}

function build(root) {
  const box = element("div", { class: "ieeg" });
  const overview = element("canvas", { class: "overview", role: "img" });
  const legend = element("p", { class: "legend" });
  const tools = element("div", { class: "tools", role: "toolbar", "aria-label": "Pages" });
  const state = { root, box, overview, legend, send: null, meta: null, page: null,
    pages: new Map(), at: 0, asked: null, direction: 1, box_drag: null,
    next: null, isWaiting: false, number: Date.now() % 1e9, watch: 0, timer: 0 };
  const steps = [
    ["|◀", "First page", () => 0], ["◀◀", "Back ten pages", (p, at) => at - 10 * p.length],
    ["◀", "Back one page", (p, at) => at - p.length],
    ["▶", "On one page", (p, at) => at + p.length],
    ["▶▶", "On ten pages", (p, at) => at + 10 * p.length],
    ["▶|", "Last page", (p) => p.duration],
  ];
  for (const [sign, name, to] of steps) {
    const button = element("button", { type: "button", title: name, "aria-label": name }, sign);
    button.onclick = () => go(state, to(state.page, state.asked ?? state.at));
    tools.append(button);
  }
  const readout = element("output", { class: "readout" });
  tools.append(readout);
  const stage = element("div", { class: "stage", tabindex: "0", role: "application",
    "aria-label": "Traces. Left and Right: one page. Page Up and Page Down: ten pages. " +
      "Home and End: first and last page. Up and Down: other channels." });
  const canvas = element("canvas", { class: "traces", "aria-hidden": "true" });
  stage.append(canvas);
  const printed = element("p", { class: "printed" });
  const live = element("p", { class: "live", "aria-live": "polite" });
  box.append(overview, tools, stage, printed, legend, live);
  root.append(box);
  Object.assign(state, { stage, canvas, printed, readout, live });
  state.say = (words) => { live.textContent = words; };

  stage.onkeydown = (event) => key(state, event);
  canvas.onpointermove = (event) => hover(state, event);
  canvas.onpointerleave = () => { readout.textContent = ""; };
  canvas.onclick = () => stage.focus({ preventScroll: true });
  dragging(state);
  new ResizeObserver(() => { if (state.page) show(state); }).observe(box);
  // Colours come from the theme, which may change under a standing page.
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change",
    () => setTimeout(() => state.page && show(state), 300));
  return state;
}

function key(state, event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const { page } = state;
  const begin = state.asked ?? state.at;
  const to = {
    ArrowLeft: begin - page.length, ArrowRight: begin + page.length,
    PageUp: begin - 10 * page.length, PageDown: begin + 10 * page.length,
    Home: 0, End: page.duration,
  }[event.key];
  if (to !== undefined) go(state, to);
  else if (event.key === "ArrowUp") other(state, -1);
  else if (event.key === "ArrowDown") other(state, 1);
  else return;
  event.preventDefault();
}

function go(state, begin, more = {}) {
  const { page } = state;
  const to = clamp(page, begin);
  if (to === (state.asked ?? state.at) && !("until" in more)) {
    state.say(to === 0 ? "First page" : "Last page");
    return;
  }
  state.asked = to;
  clearTimeout(state.timer);
  if ("until" in more || !turn(state)) {
    ask(state, { begin: to, need: to, columns: columns(state), first_row: page.first_row, ...more });
  }
}

function other(state, direction) {
  const { page } = state;
  const first = page.first_row + direction * page.rows.length;
  const last = page.n_channels - page.rows.length;
  const to = Math.min(Math.max(0, first), last);
  if (to !== page.first_row) {
    clearTimeout(state.timer);
    ask(state, { begin: state.at, need: state.at, columns: columns(state), first_row: to });
  }
}

// As many as there are pixels, more or less: pages of another number are drawn anew.
function columns(state) {
  const width = state.box.clientWidth - LABELS;
  const fit = Math.min(2400, Math.max(400, Math.round(width * Math.min(ratio(), 1.5))));
  const { columns: now } = state.meta;
  return Math.abs(fit - now) > 0.15 * now ? fit : now;
}

function ratio() { return Math.max(1, window.devicePixelRatio || 1); }

function clock(seconds, digits = 0) {
  const factor = 10 ** digits;
  const whole = Math.round(seconds * factor) / factor;
  const h = Math.floor(whole / 3600), m = Math.floor(whole / 60) % 60;
  const s = (whole - 3600 * h - 60 * m).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return `${h}:${String(m).padStart(2, "0")}:${s}`;
}

function spoken(page) {
  const inside = page.events.filter((e) => e.onset < page.begin + page.length && e.offset > page.begin);
  const words = inside.map((e) => `${e.kind}, ${e.status || "annotation"}`).join("; ");
  return `${clock(page.begin)} to ${clock(page.begin + page.length)}. ${words}`;
}

// Drawing

function colours(state) {
  const style = getComputedStyle(state.box);
  const of = (name, other) => style.getPropertyValue(name).trim() || other;
  return {
    text: of("--st-text-color", "#1b1f24"), back: of("--st-background-color", "#ffffff"),
    soft: of("--st-secondary-background-color", "#f3f6fa"), line: of("--st-border-color", "#c9d1da"),
    accent: of("--st-primary-color", "#0b57d0"), second: of("--second", "#8a3c00"),
    good: of("--good", "#1b7f4b"), muted: of("--quiet", "#6b7480"),
    quiet: `color-mix(in srgb, ${of("--quiet", "#6b7480")} 60%, transparent)`,
  };
}

function sized(canvas, width, height) {
  const scale = ratio();
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function hatch(context, x, y, w, h, colour, gap = 6, back = false) {
  if (w <= 0 || h <= 0) return;
  context.save();
  context.beginPath();
  context.rect(x, y, w, h);
  context.clip();
  context.strokeStyle = colour;
  context.lineWidth = 1;
  context.beginPath();
  for (let at = x - h; at < x + w + h; at += gap) {
    context.moveTo(at, back ? y : y + h);
    context.lineTo(at + h, back ? y + h : y);
  }
  context.stroke();
  context.restore();
}

function show(state) {
  state.colours = colours(state);
  showOverview(state);
  showPage(state);
  const { page } = state;
  const end = Math.min(page.begin + page.length, page.duration);
  const span = `${clock(page.begin, 1)}–${clock(end, 1)} from the start`;
  state.printed.textContent = [span, ...page.printed].join("  ·  ");
  state.overview.setAttribute("aria-label", page.overview_words);
  state.legend.textContent = page.legend;
}

function nice(atLeast, steps) {
  return steps.find((one) => one >= atLeast) ?? steps.at(-1);
}

function showOverview(state) {
  const { page, colours: c } = state;
  const width = state.box.clientWidth;
  const g = sized(state.overview, width, OVERVIEW_HEIGHT);
  const plot = width - LABELS;
  const x = (seconds) => LABELS + (seconds / page.duration) * plot;
  const top = OVERVIEW.marks, bottom = top + OVERVIEW.trend;
  const low = bottom + OVERVIEW.events;
  g.font = "11px system-ui, sans-serif";
  g.textBaseline = "middle";
  g.fillStyle = c.text;
  g.textAlign = "right";
  g.fillText("Annotations", LABELS - 8, top / 2);
  g.fillText("P(seizure)", LABELS - 8, top + OVERVIEW.trend / 2);
  g.fillText("Events", LABELS - 8, bottom + OVERVIEW.events / 2);
  g.fillStyle = c.soft;
  g.fillRect(LABELS, top, plot, OVERVIEW.trend);
  // Time that was not evaluated: dotted, or hatched where nothing was recorded.
  for (const one of page.coverage) {
    if (one.status === "evaluated") continue;
    g.fillStyle = c.back;
    g.fillRect(x(one.begin), top, Math.max(1, x(one.end) - x(one.begin)), OVERVIEW.trend);
    hatch(g, x(one.begin), top, x(one.end) - x(one.begin), OVERVIEW.trend, c.quiet, 5, true);
  }
  for (const [begin, end] of page.gaps) {
    const wide = Math.max(2, x(end) - x(begin));
    g.fillStyle = c.back;
    g.fillRect(x(begin), 0, wide, low);
    hatch(g, x(begin), 0, wide, low, c.muted, 5);
  }
  if (page.trend.length) showTrend(g, page, c, plot, top, bottom);
  else {
    g.fillStyle = c.text;
    g.textAlign = "center";
    g.fillText("not scored: there is no probability yet", LABELS + plot / 2, top + OVERVIEW.trend / 2);
  }
  for (const one of page.events) {
    const [from, wide] = [x(one.onset), Math.max(3, x(one.offset) - x(one.onset))];
    if (!one.status) {
      g.fillStyle = c.second;
      g.fillRect(from, 2, wide, OVERVIEW.marks - 5);
      continue;
    }
    const [y, h] = [bottom + 2, OVERVIEW.events - 4];
    g.strokeStyle = g.fillStyle = one.status === "rejected" ? c.muted
      : one.status === "not reviewed" ? c.accent : c.good;
    g.lineWidth = 1.5;
    if (one.status === "rejected") g.strokeRect(from, y, wide, h);
    else g.fillRect(from, y, wide, h);
    const sign = { rejected: "✕", accepted: "✓", edited: "✎", added: "+" }[one.status];
    g.textAlign = "left";
    if (sign) g.fillText(sign, from + wide + 2, bottom + OVERVIEW.events / 2);
  }
  g.strokeStyle = c.line;
  g.lineWidth = 1;
  g.strokeRect(LABELS + 0.5, top + 0.5, plot - 1, low - top - 1);
  g.fillStyle = c.text;
  g.textAlign = "center";
  const step = nice(page.duration / Math.max(2, plot / 90),
    [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400]);
  for (let t = 0; t <= page.duration; t += step) {
    const at = x(t);
    g.textAlign = t === 0 ? "left" : at > width - 30 ? "right" : "center";
    g.fillText(clock(t, step < 1 ? 1 : 0), at, low + OVERVIEW.axis / 2 + 1);
    g.beginPath();
    g.moveTo(at, low - 3);
    g.lineTo(at, low + 3);
    g.stroke();
  }
  // Where the page is.
  const begin = state.asked ?? page.begin;
  const from = x(begin), wide = Math.max(4, x(Math.min(begin + page.length, page.duration)) - from);
  g.strokeStyle = c.text;
  g.lineWidth = 2;
  g.strokeRect(from - 1, 1, wide + 2, low);
  if (state.box_drag) {
    const [a, b] = state.box_drag;
    g.fillStyle = `color-mix(in srgb, ${c.accent} 25%, transparent)`;
    g.fillRect(Math.min(a, b), 0, Math.abs(b - a), low);
  }
}

function showTrend(g, page, c, plot, top, bottom) {
  const n = page.trend.length, height = bottom - top;
  const seconds = page.segment;
  const y = (level) => bottom - (level / 250) * (height - 2);
  g.fillStyle = g.strokeStyle = c.accent;
  const end = Math.ceil(plot);
  for (let px = 0; px < end; px += 1) {
    const from = Math.floor((px / plot) * page.duration / seconds);
    const to = Math.max(from + 1, Math.ceil(((px + 1) / plot) * page.duration / seconds));
    let level = -1;
    for (let k = from; k < Math.min(to, n); k += 1) {
      if (page.trend[k] !== NOT_EVALUATED) level = Math.max(level, page.trend[k]);
    }
    if (level < 0) continue;
    g.globalAlpha = 0.35;
    g.fillRect(LABELS + px, y(level), 1, bottom - y(level));
    g.globalAlpha = 1;
    g.fillRect(LABELS + px, y(level) - 1, 1, 2);
  }
  if (page.threshold !== null) {
    g.setLineDash([5, 4]);
    g.strokeStyle = c.text;
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(LABELS, y(250 * page.threshold));
    g.lineTo(LABELS + plot, y(250 * page.threshold));
    g.stroke();
    g.setLineDash([]);
  }
}

function layout(state) {
  const { page } = state;
  const width = state.box.clientWidth;
  // All rows on one screen where they can still be told apart.
  const room = Math.min(1100, Math.max(420, window.innerHeight - 250));
  const row = Math.max(6.5, Math.min(64, room / Math.max(1, page.rows.length)));
  const height = Math.max(240, Math.round(row * page.rows.length + 24));
  return { width, plot: width - LABELS, height, top: 14, row: (height - 24) / Math.max(1, page.rows.length) };
}

function showPage(state) {
  const { page, colours: c } = state;
  const at = layout(state);
  const g = sized(state.canvas, at.width, at.height + AXIS);
  const x = (t) => LABELS + ((t - page.begin) / page.length) * at.plot;
  const right = x(Math.min(page.begin + page.length, page.duration));
  g.fillStyle = c.back;
  g.fillRect(LABELS, 0, at.plot, at.height);
  if (right < at.width) {
    g.fillStyle = c.soft;
    g.fillRect(right, 0, at.width - right, at.height);
  }
  // Events lie under the traces.
  g.font = "11px system-ui, sans-serif";
  g.textBaseline = "middle";
  for (const one of page.events) {
    const [from, to] = [Math.max(LABELS, x(one.onset)), Math.min(right, x(one.offset))];
    if (to <= from) continue;
    const colour = !one.status ? c.second : one.status === "rejected" ? c.muted
      : one.status === "not reviewed" ? c.accent : c.good;
    g.fillStyle = colour;
    if (one.status) {
      g.globalAlpha = 0.09;
      g.fillRect(from, 0, to - from, at.height);
      g.globalAlpha = 1;
    }
    g.fillRect(from, one.status ? 0 : at.height - 4, to - from, 4);
    g.strokeStyle = colour;
    g.lineWidth = 2;
    g.setLineDash(one.status ? [] : [6, 4]);
    for (const [edge, t] of [[from, one.onset], [to, one.offset]]) {
      if (Math.abs(edge - x(t)) > 0.5) continue;
      g.beginPath();
      g.moveTo(edge, 0);
      g.lineTo(edge, at.height);
      g.stroke();
    }
    g.setLineDash([]);
  }
  showGrid(g, page, c, at, x);
  showGaps(g, page, c, at, x, right);
  paint(state, g, at, c);
  // Labels.
  g.textAlign = "right";
  const every = Math.ceil(10 / at.row);
  page.rows.forEach((row, k) => {
    if (k % every) return;
    g.font = `${row.bad ? "italic " : ""}${Math.min(12, Math.max(9, at.row - 1))}px system-ui, sans-serif`;
    g.fillStyle = row.bad ? c.muted : c.text;
    g.fillText(row.bad ? `${row.name} ✕` : row.name, LABELS - 6, at.top + (k + 0.5) * at.row, LABELS - 8);
  });
  g.font = "11px system-ui, sans-serif";
  g.textAlign = "left";
  let taken = -Infinity, line = 0;
  for (const one of page.events) {
    const from = Math.max(LABELS, x(one.onset));
    if (x(one.offset) <= LABELS || from >= right) continue;
    const words = one.status ? `${one.kind}: ${one.status}` : `annotation: ${one.kind}`;
    line = from < taken ? line + 1 : 0;
    const wide = g.measureText(words).width + 8;
    taken = Math.max(taken, from + wide);
    g.fillStyle = c.back;
    g.fillRect(from, 1 + 14 * line, wide, 13);
    g.fillStyle = c.text;
    g.fillText(words, from + 4, 8 + 14 * line);
  }
  showScale(g, page, c, at);
  g.strokeStyle = c.line;
  g.lineWidth = 1;
  g.strokeRect(LABELS + 0.5, 0.5, at.plot - 1, at.height - 1);
}

function showGrid(g, page, c, at, x) {
  const step = nice(page.length / Math.max(2, at.plot / 70),
    [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300]);
  g.strokeStyle = c.line;
  g.lineWidth = 1;
  g.fillStyle = c.text;
  const first = Math.ceil(page.begin / step - 1e-6);
  for (let k = first; k * step <= page.begin + page.length + 1e-6; k += 1) {
    const px = Math.round(x(k * step)) + 0.5;
    if (k * step > page.duration) break;
    g.beginPath();
    g.moveTo(px, 0);
    g.lineTo(px, at.height + 4);
    g.stroke();
    g.textAlign = px > at.width - 26 ? "right" : px < LABELS + 20 ? "left" : "center";
    g.fillText(clock(k * step, step < 1 ? 1 : 0), Math.min(px, at.width), at.height + AXIS / 2 + 2);
  }
}

function showGaps(g, page, c, at, x, right) {
  for (const [begin, end] of page.gaps) {
    const [from, to] = [Math.max(LABELS, x(begin)), Math.min(right, x(end))];
    if (to <= from) continue;
    hatch(g, from, 0, to - from, at.height, c.muted, 9);
    if (to - from > 90) {
      g.textAlign = "center";
      g.fillStyle = c.back;
      g.fillRect((from + to) / 2 - 46, at.height / 2 - 9, 92, 18);
      g.fillStyle = c.text;
      g.fillText("not recorded", (from + to) / 2, at.height / 2);
    }
  }
}

// One vertical run of pixels for each column and row: its extrema, whatever the scale.
function paint(state, g, at, c) {
  const { page } = state;
  const scale = ratio();
  const w = Math.round(at.plot * scale), h = Math.round(at.height * scale);
  if (!state.picture || state.picture.width !== w || state.picture.height !== h) {
    state.layer = document.createElement("canvas");
    state.layer.width = w;
    state.layer.height = h;
    state.picture = state.layer.getContext("2d").createImageData(w, h);
    state.pixels = new Uint32Array(state.picture.data.buffer);
  }
  const pixels = state.pixels;
  pixels.fill(0);
  const inks = [rgb(c.text), rgb(c.muted)];
  const perMm = MM * scale, thick = Math.max(1, 1.1 * scale);
  const sign = page.negative_up ? 1 : -1;
  const size = page.n_columns * page.per;
  const spans = page.per === 1 ? sampledSpans : extremaSpans;
  const low = new Float32Array(w), high = new Float32Array(w);
  page.rows.forEach((row, k) => {
    spans(page, k * size, w, low, high);
    const centre = (at.top + (k + 0.5) * at.row) * scale;
    const factor = (sign * row.scale / page.sensitivity) * perMm;
    const base = page.base[k];
    const ink = inks[row.bad ? 1 : 0];
    let above = NaN, below = NaN;
    for (let x = 0; x < w; x += 1) {
      if (low[x] !== low[x]) { above = NaN; continue; }
      let a = centre + factor * (low[x] - base), b = centre + factor * (high[x] - base);
      if (a > b) [a, b] = [b, a];
      const [top, bottom] = [a, b];
      // Neighbouring runs touch: the trace is one line.
      if (above === above) {
        if (a > below) a = below;
        if (b < above) b = above;
      }
      [above, below] = [top, bottom];
      if (b - a < thick) { const m = (a + b) / 2; a = m - thick / 2; b = m + thick / 2; }
      if (b <= 0 || a >= h) continue;
      const first = Math.max(0, Math.floor(a)), last = Math.min(h - 1, Math.ceil(b) - 1);
      for (let y = first; y <= last; y += 1) {
        const cover = Math.min(y + 1, b) - Math.max(y, a);
        const alpha = cover >= 1 ? 255 : (cover * 255) | 0;
        const i = y * w + x;
        if (alpha > pixels[i] >>> 24) pixels[i] = (alpha << 24) | ink;
      }
    }
  });
  state.layer.getContext("2d").putImageData(state.picture, 0, 0);
  g.drawImage(state.layer, LABELS, 0, w / scale, h / scale);
}

// Columns of extrema: a pixel takes all that it overlaps.
function extremaSpans(page, start, w, low, high) {
  const { values, n_columns: n } = page;
  const each = page.length / w / page.step;
  const shift = (page.begin - page.begin_column) / page.step;
  for (let x = 0; x < w; x += 1) {
    const from = Math.max(0, Math.floor(shift + x * each + 1e-9));
    const to = Math.min(n, Math.max(from + 1, Math.ceil(shift + (x + 1) * each - 1e-9)));
    let lowest = NaN, highest = NaN;
    for (let k = from; k < to; k += 1) {
      const a = values[start + 2 * k];
      if (a === MISSING) continue;
      const b = values[start + 2 * k + 1];
      if (!(a >= lowest)) lowest = a;
      if (!(b <= highest)) highest = b;
    }
    low[x] = lowest;
    high[x] = highest;
  }
}

// Single samples: a pixel takes what the line through them covers.
function sampledSpans(page, start, w, low, high) {
  const { values, n_columns: n } = page;
  const each = page.length / w / page.step;
  const shift = (page.begin - page.begin_column) / page.step;
  const at = (where) => {
    const k = Math.floor(where);
    if (k < 0 || k >= n) return NaN;
    const a = values[start + k];
    if (a === MISSING) return NaN;
    if (k + 1 >= n) return where - k < 1e-6 ? a : NaN;
    const b = values[start + k + 1];
    return b === MISSING ? NaN : a + (where - k) * (b - a);
  };
  for (let x = 0; x < w; x += 1) {
    const from = shift + x * each, to = from + each;
    let lowest = NaN, highest = NaN;
    const take = (v) => {
      if (v !== v) return;
      if (!(v >= lowest)) lowest = v;
      if (!(v <= highest)) highest = v;
    };
    take(at(from));
    take(at(to));
    for (let k = Math.max(0, Math.ceil(from)); k < Math.min(to, n); k += 1) {
      if (values[start + k] !== MISSING) take(values[start + k]);
    }
    low[x] = lowest;
    high[x] = highest;
  }
}

function rgb(colour) {
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = colour;
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  return (b << 16) | (g << 8) | r;
}

function showScale(g, page, c, at) {
  const wanted = 9 * page.sensitivity;
  const power = 10 ** Math.floor(Math.log10(wanted));
  const size = [1, 2, 5, 10].map((one) => one * power).reduce(
    (best, one) => (Math.abs(Math.log(one / wanted)) < Math.abs(Math.log(best / wanted)) ? one : best));
  const high = (size / page.sensitivity) * MM;
  const second = nice(page.length / 15, [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60]);
  const wide = (second / page.length) * at.plot;
  const name = amplitude(size, page.unit);
  const time = second < 1 ? `${second * 1000} ms` : `${second} s`;
  const left = at.width - Math.max(wide, g.measureText(name).width + 8) - 22, base = at.height - 22;
  g.fillStyle = c.back;
  g.globalAlpha = 0.9;
  g.fillRect(left - 10, base - high - 16, at.width - left, high + 34);
  g.globalAlpha = 1;
  g.strokeStyle = g.fillStyle = c.text;
  g.lineWidth = 2;
  g.beginPath();
  g.moveTo(left, base - high);
  g.lineTo(left, base);
  g.lineTo(left + wide, base);
  g.stroke();
  g.textAlign = "left";
  g.fillText(name, left + 5, base - Math.max(8, high / 2));
  g.fillText(time, left + 2, base + 10);
}

function amplitude(size, unit) {
  if (unit !== "uV") return `${Number(size.toPrecision(3))} a.u.`;
  if (size >= 1e6) return `${size / 1e6} V`;
  return size >= 1000 ? `${size / 1000} mV` : `${Number(size.toPrecision(3))} µV`;
}

function hover(state, event) {
  const { page } = state;
  const at = layout(state);
  const box = state.canvas.getBoundingClientRect();
  const [px, py] = [event.clientX - box.left, event.clientY - box.top];
  const k = Math.floor((py - at.top) / at.row);
  const t = page.begin + ((px - LABELS) / at.plot) * page.length;
  if (px < LABELS || k < 0 || k >= page.rows.length || t > page.duration) {
    state.readout.textContent = "";
    return;
  }
  const row = page.rows[k];
  const column = Math.floor((t - page.begin_column) / page.step);
  const values = [];
  for (let i = 0; i < page.per; i += 1) {
    const v = page.values[(k * page.n_columns + column) * page.per + i];
    if (v !== undefined && v !== MISSING) values.push(row.middle + row.scale * v);
  }
  const words = values.length
    ? values.map((v) => Number(v.toPrecision(3))).join(" to ") + (page.unit === "uV" ? " µV" : " a.u.")
    : "not recorded";
  state.readout.textContent = `${row.name}${row.bad ? " (bad)" : ""}  ${clock(t, 2)}  ${words}`;
}

function dragging(state) {
  const { overview } = state;
  let from = null;
  const along = (event) => {
    const box = overview.getBoundingClientRect();
    return Math.min(box.width, Math.max(LABELS, event.clientX - box.left));
  };
  const time = (px) => ((px - LABELS) / (state.box.clientWidth - LABELS)) * state.page.duration;
  overview.onpointerdown = (event) => {
    if (event.button !== 0) return;
    overview.setPointerCapture(event.pointerId);
    from = along(event);
  };
  overview.onpointermove = (event) => {
    if (from === null) return;
    state.box_drag = [from, along(event)];
    showOverview(state);
  };
  overview.onpointerup = (event) => {
    if (from === null) return;
    const [a, b] = [from, along(event)].sort((one, two) => one - two);
    from = null;
    state.box_drag = null;
    if (b - a < 5) go(state, time(a) - state.page.length / 2);
    else go(state, time(a), { until: time(b) });
    state.stage.focus({ preventScroll: true });
  };
  overview.onpointercancel = () => { from = null; state.box_drag = null; };
}
