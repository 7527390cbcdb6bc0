// How do figures get into the page? By their place in the overview (a JSON pointer), and as text only: names of keys
// and what engines say are other people's words.

import { format } from "./format.js";

/** A JSON pointer from its parts. */
export function pointer(...parts) {
  return parts.map((part) => `/${String(part).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}

/** The value at a pointer; undefined if there is none. */
export function at(overview, path) {
  const parts = path.split("/").slice(1);
  return parts.reduce((value, part) => {
    const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
    return value !== null && value !== undefined && Object.hasOwn(value, name) ? value[name] : undefined;
  }, overview);
}

/** Fill every element under `root` that has `data-path`. */
export function fill(root, overview) {
  for (const element of root.querySelectorAll("[data-path]")) {
    const path = element.dataset.path;
    if (!path.includes("*")) element.textContent = format(at(overview, path), element.dataset.format);
  }
  for (const element of root.querySelectorAll("[data-needs]")) {
    element.hidden = (at(overview, element.dataset.needs) ?? null) === null;
  }
  for (const element of root.querySelectorAll("[data-missing]")) {
    element.hidden = (at(overview, element.dataset.missing) ?? null) !== null;
  }
}

/** A new element, with its text or its children. */
export function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** An element with one figure. */
export function figure(tag, overview, path, name, attributes = {}) {
  const all = { ...attributes, "data-path": path, "data-format": name };
  return make(tag, all, format(at(overview, path), name));
}

/** Replace the rows of a table. Each row is a list of cells: `[path, format]`, or an element; the first is its header. */
export function rows(id, overview, lines) {
  const body = document.querySelector(`#${id} tbody`);
  body.replaceChildren(
    ...lines.map((cells) =>
      make(
        "tr",
        {},
        ...cells.map((cell, number) => {
          const [tag, scope] = number ? ["td", {}] : ["th", { scope: "row" }];
          if (cell instanceof Element) return make(tag, { ...scope, class: cell.dataset.cell ?? "" }, cell);
          const [path, name] = cell;
          const words = ["text", "time", "list", "yes"].includes(name) ? "words" : "number";
          return figure(tag, overview, path, name, { ...scope, class: words });
        }),
      ),
    ),
  );
}
