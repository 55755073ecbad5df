// Classes are the edges of the complete graph on r vertices, K = r(r−1)/2. Both solutions have the
// loss min over c of (1−c)²/2 + (L+1)/2 (Λ P²)^(1/(L+1)) c^(2/(L+1)); they differ in P, the product
// of the norms of the layers at unit output. Λ = λ^(L+1): one sample a class, one decay.
nclibLive.figure("low-rank-bias", {
  controls: [
    { id: "r", label: "vertices r (K = r(r−1)/2 classes)", min: 4, max: 12, step: 1, value: 5 },
    { id: "L", label: "weight matrices L", min: 3, max: 7, step: 1, value: 4 },
    { id: "lam", label: "weight decay λ", min: -6, max: -1.5, step: 0.05, value: -2.4, log: true },
  ],
  products(r, L) {
    const K = (r * (r - 1)) / 2;
    const nuclear = Math.sqrt(2 * (r - 1)) + (r - 1) * Math.sqrt(r - 2);
    return [K ** ((L + 1) / 2), Math.sqrt(K) * Math.sqrt((K * r) / 4) * r ** ((L - 3) / 2) * nuclear];
  },
  loss(product, L, lam) {
    const price = lam * product ** (2 / (L + 1)) * ((L + 1) / 2), power = 2 / (L + 1);
    const f = (c) => (1 - c) ** 2 / 2 + price * c ** power;
    const slope = (c) => c - 1 + price * power * c ** (power - 1);
    let low = (L - 1) / L, high = 1; // right of the inflection the minimum, if there is one
    if (slope(low) >= 0) return 0.5;
    for (let i = 0; i < 100; i++) {
      const middle = (low + high) / 2;
      if (slope(middle) < 0) low = middle;
      else high = middle;
    }
    return Math.min(f(low), 0.5);
  },
  compute({ r, L, lam }) {
    const [collapse, graph] = this.products(r, L).map((p) => this.loss(p, L, lam));
    return { K: (r * (r - 1)) / 2, collapse, graph, ratio: graph / collapse };
  },
  draw(svg, { r, L, lam }, now) {
    const { X, Y } = svg.axes({ box: [60, 30, 380, 240], x: [4, 12], y: [0.4, 1.2],
      labels: ["vertices r", "loss of the graph ÷ loss of collapse"] });
    svg.line([[60, Y(1)], [380, Y(1)]],
      { stroke: "currentColor", "stroke-dasharray": "4 4", "stroke-opacity": 0.5, "stroke-width": 1 });
    const at = (v) => Math.max(0.4, Math.min(1.2, this.compute({ r: v, L, lam }).ratio));
    svg.line([4, 5, 6, 7, 8, 9, 10, 11, 12].map((v) => [X(v), Y(at(v))]));
    svg.add("circle", { cx: X(r), cy: Y(at(r)), r: 6, fill: nclibLive.COLORS[1] });
    const spot = (k) => {
      const angle = (2 * Math.PI * k) / r - Math.PI / 2;
      return [490 + 90 * Math.cos(angle), 140 + 90 * Math.sin(angle)];
    };
    for (let i = 0; i < r; i++)
      for (let j = 0; j < i; j++)
        svg.line([spot(i), spot(j)], { "stroke-width": 1.2, "stroke-opacity": 0.6 });
    for (let i = 0; i < r; i++)
      svg.add("circle", { cx: spot(i)[0], cy: spot(i)[1], r: 5, fill: nclibLive.COLORS[1] });
    svg.text(478, 276, `${now.K} edges, ${now.K} classes`, { "text-anchor": "middle" });
    const f = nclibLive.number;
    const verdict = now.ratio < 1 - 1e-9 ? "below collapse" : now.ratio > 1 + 1e-9
      ? "above collapse (this explicit form; others can be lower)" : "the zero solution, like collapse";
    return `K = ${now.K}, L = ${L}: collapse has loss ${f(now.collapse, 4)}, the graph of rank ${r} ` +
      `${f(now.graph, 4)}: ${verdict}, ratio ${f(now.ratio, 4)}.`;
  },
});
