// What the live figures share: sliders, an SVG with axes, a spoken caption. No dependency.
//
// nclibLive.figure(slug, spec) fills the element .nclib-live of that slug. The spec has
//   controls: [{ id, label, min, max, step, value, log, digits }]; with `log` the slider is the
//             exponent of ten and the value ten to it.
//   compute(values): numbers, plain arithmetic in float64. Tests compare them with nclib's.
//   draw(svg, values, numbers): draws, and returns the sentence below the figure.
window.nclibLive ??= (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
  const computed = {};

  function element(name, attributes = {}, text = "") {
    const e = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
    e.textContent = text;
    return e;
  }

  // A picture of 600 × 300 units with helpers; wiped before each drawing.
  function canvas(figure) {
    const svg = element("svg", { viewBox: "0 0 600 300", role: "img" });
    figure.append(svg);
    return {
      node: svg,
      clear: () => svg.replaceChildren(),
      add: (name, attributes, text) => svg.appendChild(element(name, attributes, text)),
      line(points, attributes = {}) {
        const d = points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`);
        return this.add("path", { d: d.join(""), fill: "none", stroke: COLORS[0],
          "stroke-width": 2.5, ...attributes });
      },
      text(x, y, words, attributes = {}) {
        return this.add("text", { x, y, fill: "currentColor", ...attributes }, words);
      },
      // A frame with ends marked; returns the two scales.
      axes({ box: [x0, y0, x1, y1], x: [a, b], y: [c, d], labels: [below, left], ends = true }) {
        const X = (v) => x0 + ((v - a) / (b - a)) * (x1 - x0);
        const Y = (v) => y1 - ((v - c) / (d - c)) * (y1 - y0);
        this.line([[x0, y0], [x0, y1], [x1, y1]],
          { stroke: "currentColor", "stroke-opacity": 0.5, "stroke-width": 1 });
        this.text((x0 + x1) / 2, y1 + 36, below, { "text-anchor": "middle" });
        this.text(x0 - 4, y0 - 8, left);
        if (ends) {
          this.text(x0, y1 + 18, number(a), { "text-anchor": "middle" });
          this.text(x1, y1 + 18, number(b), { "text-anchor": "middle" });
          this.text(x0 - 6, y0 + 10, number(d), { "text-anchor": "end" });
          this.text(x0 - 6, y1, number(c), { "text-anchor": "end" });
        }
        return { X, Y };
      },
    };
  }

  function number(v, digits = 3) {
    if (v === 0) return "0";
    const size = Math.abs(v);
    if (size >= 1e-3 && size < 1e5) return String(Number(v.toPrecision(digits))).replace("-", "−");
    const [m, e] = v.toExponential(digits - 1).split("e");
    const raised = [...String(Number(e))].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");
    return `${Number(m)}·10${raised}`.replace("-", "−");
  }

  function figure(slug, spec) {
    computed[slug] = (values) => spec.compute(values);
    const place = document.querySelector(`.nclib-live[data-figure="${slug}"]`);
    if (!place) return;
    const body = document.createElement("figure");
    const picture = canvas(body);
    const caption = document.createElement("figcaption");
    caption.setAttribute("aria-live", "polite");
    const inputs = spec.controls.map((control) => {
      const label = document.createElement("label");
      const name = document.createElement("span");
      name.textContent = control.label;
      const input = document.createElement("input");
      const output = document.createElement("output");
      Object.assign(input, { type: "range", min: control.min, max: control.max,
        step: control.step, value: control.value });
      label.append(name, input, output);
      input.addEventListener("input", update);
      return { control, label, input, output };
    });
    body.append(...inputs.map((i) => i.label), caption);
    place.replaceChildren(body);

    function update() {
      const values = {};
      for (const { control, input, output } of inputs) {
        const value = control.log ? 10 ** Number(input.value) : Number(input.value);
        values[control.id] = value;
        output.textContent = number(value, control.digits ?? 3);
      }
      picture.clear();
      caption.textContent = spec.draw(picture, values, spec.compute(values));
      picture.node.setAttribute("aria-label", caption.textContent);
    }
    update();
  }

  return { figure, computed, number, COLORS };
})();
