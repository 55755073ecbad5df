// Three classes on a unit simplex frame, Gaussian noise, classifier rows on a second perfect frame.
// Turned inside the plane of the frame, or tilted out of it into fresh directions: the same cosine
// of each row with its mean, other error exponents min [(w_c−w_j)·μ_c]₊² / (2 |w_c−w_j|²).
nclibLive.figure("space-alignment", {
  controls: [
    { id: "phi", label: "angle φ (degrees)", min: 0, max: 90, step: 1, value: 25 },
    { id: "sigma", label: "noise σ", min: 0.05, max: 0.6, step: 0.01, value: 0.25 },
  ],
  frame: [0, 1, 2].map((k) => [Math.cos((2 * Math.PI * k) / 3), Math.sin((2 * Math.PI * k) / 3)]),
  turned(phi) {
    const [c, s] = [Math.cos(phi), Math.sin(phi)];
    return this.frame.map(([x, y]) => [c * x - s * y, s * x + c * y]);
  },
  exponent(rows, means) {
    let least = Infinity;
    means.forEach((mean, c) => rows.forEach((_, j) => {
      if (c === j) return;
      const gap = rows[c].map((v, i) => v - rows[j][i]);
      const along = gap.reduce((sum, v, i) => sum + v * (mean[i] ?? 0), 0);
      least = Math.min(least, Math.max(along, 0) ** 2 / (2 * gap.reduce((sum, v) => sum + v * v, 0)));
    }));
    return least;
  },
  compute({ phi }) {
    const angle = (phi * Math.PI) / 180;
    const tilted = this.frame.map(([x, y], k) => [Math.cos(angle) * x, Math.cos(angle) * y,
      ...[0, 1, 2].map((i) => (i === k ? Math.sin(angle) : 0))]);
    return {
      aligned: this.exponent(this.frame, this.frame),
      inside: this.exponent(this.turned(angle), this.frame),
      outside: this.exponent(tilted, this.frame),
    };
  },
  draw(svg, { phi, sigma }, now) {
    const { X, Y } = svg.axes({ box: [76, 30, 336, 240], x: [0, 90], y: [0, now.aligned],
      labels: ["angle φ", "error exponent"] });
    ["inside", "outside"].forEach((key, j) => {
      svg.line([...Array(91)].map((_, v) => [X(v), Y(this.compute({ phi: v })[key])]),
        { stroke: nclibLive.COLORS[j] });
      svg.add("circle", { cx: X(phi), cy: Y(now[key]), r: 6, fill: nclibLive.COLORS[j] });
    });
    svg.text(200, 60, "tilted out of the plane", { fill: nclibLive.COLORS[1] });
    svg.text(84, 230, "turned inside", { fill: nclibLive.COLORS[0] });
    const rows = this.turned((phi * Math.PI) / 180), at = (x, y) => [470 + 85 * x, 140 - 85 * y];
    this.frame.forEach(([x, y], k) => {
      const color = nclibLive.COLORS[k + 2], [cx, cy] = at(x, y), [rx, ry] = at(...rows[k]);
      svg.add("circle", { cx, cy, r: 85 * sigma, fill: color, "fill-opacity": 0.25 });
      svg.add("circle", { cx, cy, r: 4, fill: color });
      svg.line([[470, 140], [rx, ry]], { stroke: color, "stroke-width": 4 });
    });
    const f = nclibLive.number;
    return `Each row has the cosine ${f(Math.cos((phi * Math.PI) / 180))} with its class mean. Turned ` +
      `inside the plane the exponent is ${f(now.inside)}, tilted out of it ${f(now.outside)}, aligned ` +
      `${f(now.aligned)}: at σ = ${f(sigma)} pairwise errors go like exp(−exponent ÷ σ²): ` +
      `${f(Math.exp(-now.inside / sigma ** 2))} against ${f(Math.exp(-now.outside / sigma ** 2))}.`;
  },
});
