// Two targets with variances λ_1 ≥ λ_2, uncorrelated. At the optimum the Gram matrix W Wᵀ has the
// eigenvalues (sqrt λ_j − sqrt c)₊ for equal decays of product c: they leave one by one.
nclibLive.figure("regression-collapse", {
  controls: [
    { id: "first", label: "larger variance λ₁", min: 0.2, max: 3, step: 0.01, value: 2 },
    { id: "share", label: "λ₂ ÷ λ₁", min: 0.02, max: 1, step: 0.01, value: 0.3 },
    { id: "c", label: "c, product of the two decays", min: -4, max: 0.5, step: 0.02, value: -1, log: true },
  ],
  compute({ first, share, c }) {
    const roots = [Math.sqrt(first), Math.sqrt(first * share)];
    const [one, two] = roots.map((r) => Math.max(r - Math.sqrt(c), 0));
    const lost = [first, first * share].map((v) => Math.min(v, c));
    return { one, two, rank: (one > 0) + (two > 0), residual: lost[0] + lost[1] };
  },
  draw(svg, values, now) {
    const top = Math.sqrt(values.first);
    const { X, Y } = svg.axes({ box: [60, 30, 400, 240], x: [-4, 0.5], y: [0, top], ends: false,
      labels: ["log₁₀ c", "eigenvalues of W Wᵀ"] });
    for (const v of [-4, -2, 0])
      svg.text(X(v), 258, nclibLive.number(v), { "text-anchor": "middle" });
    const logs = [...Array(226)].map((_, i) => -4 + i / 50);
    ["one", "two"].forEach((key, j) => {
      svg.line(logs.map((v) => [X(v), Y(this.compute({ ...values, c: 10 ** v })[key])]),
        { stroke: nclibLive.COLORS[j] });
      svg.add("circle", { cx: X(Math.log10(values.c)), cy: Y(now[key]), r: 6,
        fill: nclibLive.COLORS[j] });
      const height = (180 * now[key]) / top;
      svg.add("rect", { x: 450 + 60 * j, y: 240 - height, width: 40, height,
        fill: nclibLive.COLORS[j] });
    });
    svg.text(500, 276, `rank ${now.rank}`, { "text-anchor": "middle" });
    const f = nclibLive.number;
    return now.rank
      ? `At c = ${f(values.c)} the optimum keeps ${now.rank === 2 ? "both directions" : "one direction"}` +
        ` of the targets: eigenvalues ${f(now.one)} and ${f(now.two)}. What is not fitted has variance ` +
        `${f(now.residual)}.`
      : `At c = ${f(values.c)} the optimum is W = H = 0: nothing of the targets is fitted.`;
  },
});
