// Two classes, inputs N(−m, 1) and N(m, 1); features are three waves a sin(w x + b). Averaging the
// function over inputs within s damps each wave by exp(−w² s²/2): all moments in closed form.
nclibLive.figure("geometric-complexity", {
  controls: [
    { id: "s", label: "smoothing s", min: 0, max: 1.5, step: 0.01, value: 0 },
    { id: "m", label: "distance of the classes 2m, m =", min: 0.5, max: 3, step: 0.05, value: 1.5 },
  ],
  waves: [[1, 0.5, 0], [0.5, 1.6, 0.7], [0.25, 3.1, 1.9]], // a, w, b
  compute({ s, m }) {
    let [complexity, variance, distance] = [0, 0, 0];
    for (const [a, w, b] of this.waves) {
      const size = a * a * Math.exp(-w * w * s * s), double = Math.exp(-2 * w * w);
      const means = [-m, m].map((x) => Math.exp((-w * w) / 2) * Math.sin(w * x + b));
      [-m, m].forEach((x, i) => {
        const wave = double * Math.cos(2 * (w * x + b));
        complexity += (size * w * w * (1 + wave)) / 4; // the mean over the two classes
        variance += (size * ((1 - wave) / 2 - means[i] ** 2)) / 2;
      });
      distance += size * (means[0] - means[1]) ** 2;
    }
    return { complexity, variance, collapse: variance / distance, bound: complexity / distance };
  },
  draw(svg, values, now) {
    const start = this.compute({ ...values, s: 0 });
    const { X, Y } = svg.axes({ box: [60, 30, 330, 240], x: [0, 1.5], y: [0, 1],
      labels: ["smoothing s", "share of the value at s = 0"] });
    [["complexity", "GC"], ["collapse", "NC"]].forEach(([key], j) => {
      const at = (s) => this.compute({ ...values, s })[key] / start[key];
      svg.line([...Array(76)].map((_, i) => [X(i / 50), Y(Math.min(1, at(i / 50)))]),
        { stroke: nclibLive.COLORS[j] });
      svg.add("circle", { cx: X(values.s), cy: Y(Math.min(1, at(values.s))), r: 6,
        fill: nclibLive.COLORS[j] });
    });
    svg.text(220, 90, "collapse (NC)", { fill: nclibLive.COLORS[1] });
    svg.text(196, 186, "complexity (GC)", { fill: nclibLive.COLORS[0] });
    const wave = (x) => this.waves.reduce((sum, [a, w, b]) =>
      sum + a * Math.exp((-w * w * values.s * values.s) / 2) * Math.sin(w * x + b), 0);
    svg.line([...Array(161)].map((_, i) => [380 + i * 1.25, 140 - 60 * wave(-6 + i * 0.075)]),
      { stroke: nclibLive.COLORS[2] });
    svg.text(480, 270, "sum of the features", { "text-anchor": "middle" });
    const f = nclibLive.number;
    return `Geometric complexity ${f(now.complexity)}, within-class variance ÷ squared distance of the ` +
      `class means ${f(now.collapse)}, at most ${f(now.bound)} by the Poincaré inequality.`;
  },
});
