// Text and drawings from plain data: [tag, {attributes}, ...children]. Words become text
// nodes, drawings are parsed as SVG; nothing is ever read as HTML.

const TAGS = new Set(["div", "span", "p", "strong", "small", "h3", "h4", "dl", "dt", "dd", "ul",
  "ol", "li", "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "figure",
  "figcaption", "button", "section"]);
const ATTRIBUTES = new Set(["class", "role", "scope", "colspan", "title", "type", "tabindex",
  "aria-label", "aria-pressed", "aria-hidden", "aria-current", "data-choose"]);

export default function markup({ data, parentElement, setTriggerValue }) {
  const focused = parentElement.activeElement?.dataset?.choose;
  let root = parentElement.querySelector(".markup");
  if (!root) {
    root = document.createElement("div");
    root.className = "markup";
    parentElement.append(root);
  }
  root.replaceChildren(...data.map(build));
  root.onclick = (event) => {
    const chosen = event.target.closest("[data-choose]");
    if (chosen) setTriggerValue("chosen", chosen.dataset.choose);
  };
  if (focused !== undefined) {
    root.querySelector(`[data-choose="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }
}

function build(node) {
  if (typeof node === "string") return document.createTextNode(node);
  const [tag, attributes, ...children] = node;
  if (tag === "svg") {
    const parsed = new DOMParser().parseFromString(attributes, "image/svg+xml");
    return document.importNode(parsed.documentElement, true);
  }
  if (!TAGS.has(tag)) throw new Error(`${tag} is no element of this page`);
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (ATTRIBUTES.has(name)) element.setAttribute(name, value);
    else throw new Error(`${name} is no attribute of this page`);
  }
  element.append(...children.map(build));
  return element;
}
