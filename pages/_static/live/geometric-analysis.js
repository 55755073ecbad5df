// The regularized model's minimum for K classes of n samples, in closed form: below
// K λ sqrt(n) = 1 (λ for W and H) a simplex ETF, from there on zero.
nclibLive.figure("geometric-analysis", {
  controls: [
    { id: "K", label: "classes K", min: 2, max: 12, step: 1, value: 4 },
    { id: "n", label: "samples a class n", min: 1, max: 100, step: 1, value: 20 },
    { id: "lam", label: "weight decay λ of W and H", min: -4, max: 0, step: 0.02, value: -2.3, log: true },
  ],
  compute({ K, n, lam }) {
    const s = Math.sqrt(n) * lam;
    if (K * s >= 1) return { ratio: K * s, length: 0, feature: 0, loss: Math.log(K), wrong: 1 / K };
    const gap = Math.log(1 / s - K + 1); // the right logit ahead of each wrong one
    const square = (Math.sqrt(n) * gap * (K - 1)) / K;
    return {
      ratio: K * s, length: Math.sqrt(square), feature: Math.sqrt(square / n), wrong: s,
      loss: -Math.log(1 - (K - 1) * s) + (K - 1) * s * gap,
    };
  },
  draw(svg, { K, n, lam }, now) {
    const at = (ratio) => this.compute({ K, n, lam: ratio / K / Math.sqrt(n) });
    const top = at(0.02).length;
    const { X, Y } = svg.axes({ box: [60, 30, 380, 240], x: [0, 1.5], y: [0, top],
      labels: ["K λ √n", "length of a row of W"] });
    svg.line([[X(1), 30], [X(1), 240]],
      { stroke: "currentColor", "stroke-dasharray": "4 4", "stroke-opacity": 0.5, "stroke-width": 1 });
    svg.line([...Array(148)].map((_, i) => [X(0.03 + i / 100), Y(at(0.03 + i / 100).length)]));
    svg.add("circle", { cx: X(Math.min(now.ratio, 1.5)), cy: Y(Math.min(now.length, top)), r: 6,
      fill: nclibLive.COLORS[1] });
    for (let k = 0; k < K; k++) {
      const angle = (2 * Math.PI * k) / K - Math.PI / 2;
      const r = (90 * Math.min(now.length, top)) / top;
      const [x, y] = [490 + r * Math.cos(angle), 140 + r * Math.sin(angle)];
      const color = nclibLive.COLORS[k % 6];
      svg.line([[490, 140], [x, y]], { stroke: color, "stroke-width": 4 });
      svg.add("circle", { cx: x, cy: y, r: 5, fill: color });
    }
    svg.text(490, 276, "lengths, not angles", { "text-anchor": "middle", "fill-opacity": 0.7 });
    const f = nclibLive.number;
    return now.length > 0
      ? `At Kλ√n = ${f(now.ratio)} the minimum is a simplex ETF: rows of length ` +
        `${f(now.length)}, features of length ${f(now.feature)}, each wrong class has probability ` +
        `${f(now.wrong)}, loss ${f(now.loss)}.`
      : `At Kλ√n = ${f(now.ratio)} ≥ 1 the minimum is W = H = 0: loss log K = ${f(now.loss)}.`;
  },
});
