// What the widgets' modules share: it stands before each module's text, so that a widget stays one module without imports.

function direction(value) {
  return value === 0 ? "  ＝" : value > 0 ? "  ▲ rises" : "  ▼ falls";
}

function element(tag, values = {}, ...children) {
  const node = document.createElement(tag);
  attributes(node, values);
  node.append(...children);
  return node;
}

function svg(tag, values = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  attributes(node, values);
  node.append(...children);
  return node;
}

function attributes(node, values) {
  for (const [name, value] of Object.entries(values)) node.setAttribute(name, String(value));
}
