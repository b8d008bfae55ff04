// Renders parts of the page with elements that hold text alone: `node page.mjs WEB_FOLDER`, a JSON object on standard
// input, {"module": …, "call": …, "arguments": […]}; prints the text of what the call returns, a line for each element.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

class Element {
  constructor(name) {
    this.name = name;
    this.children = [];
    this.attributes = {};
    this.dataset = {};
    this.style = {};
  }

  append(...children) {
    this.children.push(...children);
  }

  setAttribute(name, value) {
    this.attributes[name] = value;
  }

  addEventListener() {}

  *lines() {
    let line = "";
    for (const child of this.children) {
      if (child instanceof Element) {
        if (line) yield line;
        line = "";
        yield* child.lines();
      } else line += child;
    }
    if (line) yield line;
  }
}

globalThis.document = { createElement: (name) => new Element(name), createElementNS: (_, name) => new Element(name) };
const { module, call, arguments: given } = JSON.parse(readFileSync(0, "utf8"));
const found = (await import(pathToFileURL(`${process.argv[2]}/${module}`)))[call](...given);
const root = new Element("main");
root.append(...[found].flat().filter(Boolean));
console.log([...root.lines()].join("\n"));
