// A class with f centers w_j = cos θ v_j + sin θ w, all v_j and w orthonormal: where the mean of the
// centers, to which its features collapse, lies against the classifier row w.
nclibLive.figure("multiple-centers", {
  controls: [
    { id: "theta", label: "angle θ (radians)", min: 0, max: 1.57, step: 0.01, value: 0.2 },
    { id: "f", label: "centers of the class f", min: 1, max: 80, step: 1, value: 5 },
  ],
  compute({ theta, f }) {
    const weight = Math.cos(theta) ** 2 + f * Math.sin(theta) ** 2;
    return {
      center: Math.sqrt(weight / f), // cosine of a center and the mean of the centers; their length
      row: (Math.sqrt(f) * Math.sin(theta)) / Math.sqrt(weight), // cosine of that mean and w
      pair: Math.sin(theta) ** 2, // cosine of two centers
      weight,
    };
  },
  draw(svg, { theta, f }, now) {
    const { X, Y } = svg.axes({ box: [60, 30, 360, 240], x: [1, 80], y: [0, 1],
      labels: ["centers f", "cosine with the classifier row"] });
    svg.line([...Array(80)].map((_, i) => [X(i + 1), Y(this.compute({ theta, f: i + 1 }).row)]));
    svg.add("circle", { cx: X(f), cy: Y(now.row), r: 6, fill: nclibLive.COLORS[1] });
    const arrow = (angle, color, width) => svg.line([[420, 230],
      [420 + 145 * Math.cos(angle), 230 - 145 * Math.sin(angle)]],
      { stroke: color, "stroke-width": width });
    const rho = Math.acos(Math.min(1, now.row));
    arrow(Math.PI / 2, nclibLive.COLORS[0], 4);
    arrow(Math.PI / 2 - rho, nclibLive.COLORS[1], 4);
    svg.text(420, 74, "w", { "text-anchor": "middle" });
    svg.text(590, 222 - 168 * Math.sin(Math.PI / 2 - rho), "mean", { "text-anchor": "end" });
    const degrees = (rho * 180) / Math.PI, show = nclibLive.number;
    return `With ${f} centers at θ = ${show(theta)} the features of the class collapse ` +
      `${show(degrees)}° away from its classifier row (cosine ${show(now.row)}); one center has the ` +
      `cosine ${show(now.center)} with their mean, and the class weighs ${show(now.weight)} in the loss.`;
  },
});
