// ECG paper at true scale with calipers. Everything that is measured is measured here:
// no message goes to the server until the reader keeps a value.
// Data: svg, alt, width, height (mm), speed (mm/s), gain (mm/mV), boxes (leads in mm),
// rate (Hz), mark ({start, stop, text, n} in seconds, or null).

const SVG = "http://www.w3.org/2000/svg";
const STATES = new WeakMap();
const KINDS = ["interval", "RR", "PR", "QRS", "QT", "amplitude"];

export default function paper({ data, parentElement, setTriggerValue }) {
  let state = STATES.get(parentElement);
  if (!state) {
    state = build(parentElement);
    STATES.set(parentElement, state);
  }
  state.keep = (value) => setTriggerValue("kept", value);
  if (state.svg !== data.svg) {
    state.svg = data.svg;
    draw(state, data);
  }
  state.data = data;
  const mark = JSON.stringify(data.mark);
  if (state.mark !== mark) {
    const first = state.mark === undefined;
    state.mark = mark;
    showMark(state, !first);
  }
}

function element(tag, attributes = {}, words = "") {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = words;
  return node;
}

function shape(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function build(root) {
  const tools = element("div", { class: "tools" });
  const on = element("button", { type: "button", class: "toggle" }, "Calipers");
  const snap = element("button", { type: "button", class: "toggle", "aria-pressed": "false",
    title: "Put each point on the nearest sample of the trace" }, "Snap to trace");
  const march = element("button", { type: "button", class: "toggle", "aria-pressed": "false",
    title: "Repeat the interval over the page" }, "March out");
  const readout = element("output", { class: "readout", "aria-live": "polite" });
  const kind = element("select", { "aria-label": "What the calipers measured" });
  for (const name of KINDS) kind.append(element("option", {}, name));
  const keep = element("button", { type: "button", disabled: "" }, "Keep value");
  const clear = element("button", { type: "button", disabled: "" }, "Clear");
  tools.append(on, snap, march, readout, kind, keep, clear);
  const box = element("div", { class: "box" });
  const sheet = element("div", { class: "sheet", tabindex: "0", role: "application",
    "aria-describedby": "keys" });
  const keys = element("p", { id: "keys", class: "keys" },
    "Drag to measure. Keyboard: arrows move by one sample or 0.01 mV (with Shift, ten), " +
    "Page Up and Page Down change the row, Enter sets a point, Escape clears.");
  box.append(sheet);
  root.append(tools, box, keys);
  const state = { root, box, sheet, on, snap, march, readout, kind, keep: null,
    keepButton: keep, clear, points: [], cursor: null, dragging: false };

  const measures = !window.matchMedia("(pointer: coarse)").matches;
  setOn(state, measures);
  on.onclick = () => setOn(state, on.getAttribute("aria-pressed") !== "true");
  for (const button of [snap, march]) {
    button.onclick = () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      show(state);
    };
  }
  clear.onclick = () => reset(state);
  keep.onclick = () => {
    const value = measure(state);
    if (value) state.keep({ ...value, kind: kind.value });
  };
  sheet.onpointerdown = (event) => {
    if (event.button !== 0 || !pressed(on)) return;
    sheet.setPointerCapture(event.pointerId);
    sheet.focus({ preventScroll: true });
    state.dragging = true;
    state.points = [place(state, event)];
    state.cursor = null;
    event.preventDefault();
  };
  sheet.onpointermove = (event) => {
    if (!state.dragging) return;
    state.points[1] = place(state, event);
    show(state);
  };
  sheet.onpointerup = (event) => {
    if (!state.dragging) return;
    state.dragging = false;
    const [a, b] = [state.points[0], place(state, event)];
    if (Math.hypot(a.x - b.x, a.y - b.y) < 0.3) return reset(state);
    state.points = [a, b];
    show(state);
  };
  sheet.onpointercancel = () => { state.dragging = false; };
  sheet.onkeydown = (event) => key(state, event);
  return state;
}

function pressed(button) { return button.getAttribute("aria-pressed") === "true"; }

function setOn(state, value) {
  state.on.setAttribute("aria-pressed", String(value));
  state.sheet.classList.toggle("measuring", value);
  if (!value && state.data) reset(state);
}

function draw(state, data) {
  state.data = data;
  const parsed = new DOMParser().parseFromString(data.svg, "image/svg+xml").documentElement;
  const overlay = shape("svg", { class: "overlay", width: `${data.width}mm`,
    height: `${data.height}mm`, viewBox: `0 0 ${data.width} ${data.height}`,
    "aria-hidden": "true" });
  state.marks = shape("g", {});
  state.calipers = shape("g", {});
  overlay.append(state.marks, state.calipers);
  state.sheet.replaceChildren(document.importNode(parsed, true), overlay);
  state.sheet.setAttribute("aria-label", data.alt);
  state.overlay = overlay;
  state.curves = null;
  state.mark = undefined;
  reset(state);
}

function reset(state) {
  state.points = [];
  state.cursor = null;
  show(state);
}

// The point under the pointer, in mm of the page.
function place(state, event) {
  const at = new DOMPoint(event.clientX, event.clientY)
    .matrixTransform(state.overlay.getScreenCTM().inverse());
  const point = { x: clamp(at.x, 0, state.data.width), y: clamp(at.y, 0, state.data.height) };
  return pressed(state.snap) ? snapped(state, point) : point;
}

function clamp(value, low, high) { return Math.min(Math.max(value, low), high); }

function boxAt(state, point) {
  const { boxes, speed } = state.data;
  return boxes.find((box) => point.y >= box.top && point.y < box.bottom &&
    point.x >= box.x && point.x <= box.x + (box.stop - box.start) * speed);
}

function snapped(state, point) {
  const box = boxAt(state, point);
  if (!box) return point;
  state.curves ??= [...state.sheet.querySelectorAll("g.lead > path")].map(readCurve);
  const curve = state.curves.find((one) => one.box === state.data.boxes.indexOf(box));
  if (!curve) return point;
  const wanted = (point.x - box.x) * 100;
  let best = 0;
  for (let n = 1; n < curve.x.length; n += 1) {
    if (Math.abs(curve.x[n] - wanted) < Math.abs(curve.x[best] - wanted)) best = n;
  }
  return { x: box.x + curve.x[best] / 100, y: box.y0 + curve.y[best] / 100 };
}

// The samples of a drawn lead: hundredths of a millimetre from the start of its box.
function readCurve(path) {
  const x = [], y = [];
  for (const stroke of path.getAttribute("d").split("M").slice(1)) {
    const [from, steps] = stroke.split("l");
    let [px, py] = from.split(" ").map(Number);
    x.push(px); y.push(py);
    const values = steps.split(" ").map(Number);
    for (let n = 0; n + 1 < values.length; n += 2) {
      px += values[n]; py += values[n + 1];
      x.push(px); y.push(py);
    }
  }
  return { box: Number(path.parentElement.dataset.box), x, y };
}

function measure(state) {
  const [a, b] = state.points;
  if (!a || !b) return null;
  const { speed, gain, boxes } = state.data;
  const seconds = Math.abs(b.x - a.x) / speed;
  const first = boxAt(state, a), second = boxAt(state, b);
  const x0 = boxes[0].x, t0 = boxes[0].start;
  const times = [a.x, b.x].map((x) => t0 + (x - x0) / speed).sort((p, q) => p - q);
  return {
    lead: (first ?? second)?.lead ?? "",
    start: round(times[0], 4), stop: round(times[1], 4),
    ms: round(seconds * 1000, 1),
    bpm: seconds > 0.1 ? round(60 / seconds, 1) : null,
    // Voltage only within one lead: between two leads it means nothing.
    mv: first && first === second ? round((a.y - b.y) / gain, 3) : null,
  };
}

function round(value, digits) { return Number(value.toFixed(digits)); }

function words(value) {
  const parts = [`${Math.round(value.ms)} ms`];
  if (value.bpm !== null) parts.push(`${Math.round(value.bpm)} bpm`);
  parts.push(value.mv === null ? "mV: stay within one lead"
    : `${value.mv < 0 ? "−" : "+"}${Math.abs(value.mv).toFixed(2)} mV`);
  if (value.lead) parts.push(`lead ${value.lead}`);
  return parts.join(" · ");
}

function show(state) {
  const { width, height, boxes } = state.data ?? {};
  if (!boxes) return;
  state.calipers.replaceChildren();
  const points = state.points.filter(Boolean);
  const drawn = state.cursor ? [...points.slice(0, 1), state.cursor] : points;
  const rows = drawn.map((point) => boxAt(state, point)).filter(Boolean);
  const top = rows.length ? Math.min(...rows.map((box) => box.top)) : 0;
  const bottom = rows.length ? Math.max(...rows.map((box) => box.bottom)) : height;
  const line = (x1, y1, x2, y2, name) =>
    state.calipers.append(shape("line", { x1, y1, x2, y2, class: name }));
  for (const { x, y } of drawn) {
    line(x, top, x, bottom, "caliper");
    line(x - 2, y, x + 2, y, "caliper");
  }
  if (drawn.length === 2) {
    const [a, b] = drawn;
    line(a.x, a.y, b.x, a.y, "caliper span");
    line(b.x, a.y, b.x, b.y, "caliper span");
    const step = Math.abs(b.x - a.x);
    if (pressed(state.march) && step > 1) {
      const left = boxes[0].x;
      for (let x = b.x + step * Math.sign(b.x - a.x); x > left && x < width - 5;
        x += step * Math.sign(b.x - a.x)) line(x, top, x, bottom, "caliper march");
      for (let x = a.x - step * Math.sign(b.x - a.x); x > left && x < width - 5;
        x -= step * Math.sign(b.x - a.x)) line(x, top, x, bottom, "caliper march");
    }
  }
  const value = state.cursor && points.length === 1
    ? measure({ ...state, points: [points[0], state.cursor] }) : measure(state);
  state.readout.textContent = value ? words(value) : cursorWords(state);
  const done = points.length === 2;
  state.keepButton.disabled = !done;
  state.clear.disabled = !drawn.length;
}

function cursorWords(state) {
  if (!state.cursor) return pressed(state.on) ? "Drag on the tracing to measure" : "";
  const box = boxAt(state, state.cursor);
  if (!box) return "outside the leads";
  const time = box.start + (state.cursor.x - box.x) / state.data.speed;
  const level = (box.y0 - state.cursor.y) / state.data.gain;
  return `lead ${box.lead} · ${time.toFixed(3)} s · ` +
    `${level < 0 ? "−" : ""}${Math.abs(level).toFixed(2)} mV`;
}

function key(state, event) {
  const { boxes, speed, gain, rate, width, height } = state.data;
  const many = event.shiftKey ? 10 : 1;
  const step = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  }[event.key];
  const row = { PageUp: -1, PageDown: 1 }[event.key];
  if (event.key === "Escape") {
    reset(state);
  } else if (event.key === "Enter" && state.cursor) {
    if (state.points.length === 2) state.points = [];
    state.points = [...state.points, { ...state.cursor }];
    if (state.points.length === 2) state.cursor = null;
    show(state);
  } else if (step || row) {
    if (!pressed(state.on)) return;
    if (!state.cursor) {
      if (state.points.length === 2) {
        state.cursor = { ...state.points[1] };
        state.points = [];
      } else {
        const visible = boxes.find((box) => box.x * scale(state) >= state.box.scrollLeft);
        const box = visible ?? boxes[0];
        state.cursor = { x: box.x + 5, y: box.y0 };
      }
    }
    if (step) {
      state.cursor.x = clamp(state.cursor.x + step[0] * many * speed / rate, 0, width);
      state.cursor.y = clamp(state.cursor.y + step[1] * many * 0.01 * gain, 0, height);
    } else {
      const rows = [...new Set(boxes.map((box) => box.y0))];
      const at = rows.indexOf(boxAt(state, state.cursor)?.y0 ?? rows[0]);
      state.cursor.y = rows[clamp(at + row, 0, rows.length - 1)];
    }
    show(state);
    follow(state);
  } else {
    return;
  }
  event.preventDefault();
}

function scale(state) { return state.overlay.getBoundingClientRect().width / state.data.width; }

function follow(state) {
  const x = state.cursor.x * scale(state);
  const { scrollLeft, clientWidth } = state.box;
  if (x < scrollLeft + 40 || x > scrollLeft + clientWidth - 40) {
    state.box.scrollLeft = x - clientWidth / 2;
  }
}

function showMark(state, scroll) {
  const { mark, boxes, speed, height } = state.data;
  state.marks.replaceChildren();
  if (!mark) return;
  const x = boxes[0].x + (mark.start - boxes[0].start) * speed;
  const wide = Math.max((mark.stop - mark.start) * speed, 0.5);
  const top = Math.min(...boxes.map((box) => box.top));
  const bottom = Math.max(...boxes.map((box) => box.bottom));
  state.marks.append(
    shape("rect", { x, y: top, width: wide, height: bottom - top, class: "mark" }),
  );
  const label = shape("text", { x: x + wide / 2, y: top - 1, class: "mark-label" });
  label.textContent = mark.text;
  state.marks.append(label);
  const middle = (x + wide / 2) * scale(state);
  state.box.scrollLeft = middle - state.box.clientWidth / 2;
  if (scroll) {
    const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    state.sheet.scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
  }
}
